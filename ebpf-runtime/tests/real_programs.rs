//! Real programs: whatever XDP programs libxdp, cilium's loader and the kernel's own sources have, and the kernel accepts,
//! are accepted here. docs/compat-xdp.md lists what is not, and why.

mod common;
#[path = "common/corpus.rs"]
mod corpus;
#[path = "common/debian.rs"]
mod debian;
#[path = "common/judge.rs"]
mod judge;
#[path = "common/kernel.rs"]
mod kernel;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use corpus::{Corpus, RealObject, is_xdp};
use judge::Judge;
use millrace_ebpf::{LoadError, Loader, Object};

/// What we say about a program.
enum Ours {
    Accepted,
    /// It calls something, or uses a type of map, that is not in the README's tables.
    Outside(String),
    Refused(String),
}

/// One XDP program.
struct Row {
    object: String,
    program: String,
    ours: Ours,
    kernel: Result<(), String>,
}

fn judged(error: &LoadError) -> Ours {
    match error {
        LoadError::Helper { name, .. } => Ours::Outside(format!("helper `bpf_{name}`")),
        LoadError::Kfunc { name, .. } => Ours::Outside(format!("kernel function `{name}`")),
        LoadError::Map { reason, .. } if reason.contains("of enum bpf_map_type is not supported") => {
            let number = reason.split(' ').nth(1).unwrap_or_default();
            Ours::Outside(format!("map type {number}"))
        }
        LoadError::Refused(refusal) if refusal.what.starts_with("calls a kernel function") => {
            // A weak reference: linking leaves the question whether it is called to the verifier.
            let line = refusal.line.as_ref().map_or("", |l| l.text.trim());
            let end = line.find('(').unwrap_or(line.len());
            let start = line[..end].rfind([' ', '=', '(']).map_or(0, |i| i + 1);
            Ours::Outside(format!("kernel function `{}`", &line[start..end]))
        }
        LoadError::Refused(refusal) => Ours::Refused(refusal.what.clone()),
        other => Ours::Refused(other.to_string()),
    }
}

/// The XDP programs of an object, and what we say of each.
fn ours(object: &RealObject) -> Result<Vec<(String, Ours)>, LoadError> {
    let parsed = Object::parse(&object.bytes)?;
    let xdp = || parsed.programs().iter().filter(|p| is_xdp(&p.section));
    let loaded = match Loader::new().cpus(2).load(&parsed) {
        Ok(loaded) => loaded,
        Err(error) => return Ok(xdp().map(|p| (p.name.clone(), judged(&error))).collect()),
    };
    let of = |name: &str| {
        let accepted = loaded
            .program(Some(name))
            .and_then(|program| program.verify().map(drop));
        accepted.map_or_else(|error| judged(&error), |()| Ours::Accepted)
    };
    Ok(xdp().map(|p| (p.name.clone(), of(&p.name))).collect())
}

/// A list of programs, an object a line.
fn grouped<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut text = String::new();
    let mut last = "";
    for row in rows {
        if row.object != last {
            let newline = if last.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{newline}- {}: `{}`", row.object, row.program);
        } else {
            let _ = write!(text, ", `{}`", row.program);
        }
        last = &row.object;
    }
    if text.is_empty() { "None.".into() } else { text }
}

fn table<'a>(head: &str, rows: impl Iterator<Item = (&'a Row, &'a str)>) -> String {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return "None.\n".to_owned();
    }
    let mut text = format!("| object | program | {head} |\n|---|---|---|\n");
    for (row, why) in rows {
        let why = why.replace('|', "\\|");
        let _ = writeln!(text, "| {} | `{}` | {why} |", row.object, row.program);
    }
    text
}

/// The kernel and the compiler that a page is about.
fn judges() -> String {
    let first = |program: &str, argument: &str| {
        let out = Command::new(program).arg(argument).output().ok()?;
        Some(String::from_utf8_lossy(&out.stdout).lines().next()?.to_owned())
    };
    let release = first("uname", "-r").unwrap_or_default();
    let series: Vec<&str> = release.splitn(3, '.').take(2).collect();
    let clang = common::clang()
        .and_then(|c| first(c, "--version"))
        .unwrap_or_default();
    let version = clang
        .split(' ')
        .find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
    format!(
        "Linux {} and clang {}",
        series.join("."),
        version.unwrap_or("of unknown version")
    )
}

struct Counts {
    objects: usize,
    programs: usize,
    kernel: usize,
    outside: usize,
    in_scope: usize,
    both: usize,
}

fn count(corpus: &Corpus, rows: &[Row]) -> Counts {
    let kernel = || rows.iter().filter(|r| r.kernel.is_ok());
    let outside = kernel().filter(|r| matches!(r.ours, Ours::Outside(_))).count();
    Counts {
        objects: corpus.objects.len(),
        programs: rows.len(),
        kernel: kernel().count(),
        outside,
        in_scope: kernel().count() - outside,
        both: kernel().filter(|r| matches!(r.ours, Ours::Accepted)).count(),
    }
}

fn page(corpus: &Corpus, rows: &[Row], unread: &[(String, String)]) -> String {
    let n = count(corpus, rows);
    let refused = |kernel: bool| {
        rows.iter().filter_map(move |r| match &r.ours {
            Ours::Refused(why) if r.kernel.is_ok() == kernel => Some((r, why.as_str())),
            _ => None,
        })
    };
    let outside = rows.iter().filter_map(|r| match &r.ours {
        Ours::Outside(why) if r.kernel.is_ok() => Some((r, why.as_str())),
        _ => None,
    });
    let only_here = rows.iter().filter_map(|r| match (&r.ours, &r.kernel) {
        (Ours::Accepted, Err(why)) => Some((r, said(why))),
        _ => None,
    });
    let mut text = format!(
        "# Real XDP programs\n\n\
         What becomes of the XDP programs that Debian ships in `libxdp1` and `golang-github-cilium-ebpf-dev`, and of those in \
         the kernel's `samples/bpf` and selftests (`linux-source-6.12`). Written by `make compat`; \
         `ebpf-runtime/tests/real_programs.rs` fails when it disagrees. The judge is the running kernel, which loads each \
         program through libbpf.\n\n\
         Judged by {}.\n\n\
         | | |\n|---|---|\n\
         | objects | {} |\n\
         | XDP programs in them | {} |\n\
         | accepted by the kernel | {} |\n\
         | of these, calling what [the README](../ebpf-runtime/README.md) does not list | {} |\n\
         | the others | {} |\n\
         | of the others, accepted here | {} ({:.1} %) |\n",
        judges(),
        n.objects,
        n.programs,
        n.kernel,
        n.outside,
        n.in_scope,
        n.both,
        n.both as f64 * 100.0 / n.in_scope.max(1) as f64,
    );
    let _ = write!(
        text,
        "\n## Accepted by the kernel, refused here\n\n{}",
        table("why", refused(true))
    );
    let _ = write!(
        text,
        "\n## Accepted by the kernel, calling what is not here\n\n{}",
        table("what", outside)
    );
    let _ = write!(
        text,
        "\n## Accepted here, refused by the kernel or by libbpf\n\n{}",
        table(
            "what they say",
            only_here
                .collect::<Vec<_>>()
                .iter()
                .map(|(r, why)| (*r, why.as_str()))
        )
    );
    let neither = rows
        .iter()
        .filter(|r| r.kernel.is_err() && !matches!(r.ours, Ours::Accepted));
    let _ = writeln!(
        text,
        "\n## Refused by both\n\nMost of them are tests of the kernel's that a verifier has to refuse.\n\n{}",
        grouped(neither)
    );
    let _ = write!(
        text,
        "\n## Not read, or not compiled\n\n| file | why |\n|---|---|\n"
    );
    for (name, why) in unread {
        let _ = writeln!(text, "| {name} | {why} |");
    }
    for source in &corpus.not_compiled {
        let _ = writeln!(text, "| {} | {} |", source.name, source.why.replace('|', "\\|"));
    }
    text
}

/// What libbpf or the kernel says, without the names of files.
fn said(why: &str) -> String {
    let kept = why
        .split("libbpf: failed to load object")
        .next()
        .unwrap_or_default();
    kept.trim_end_matches([' ', ':']).to_owned()
}

#[test]
fn what_the_kernel_accepts_of_real_programs_is_accepted_here() {
    let test = "what_the_kernel_accepts_of_real_programs_is_accepted_here";
    if !kernel::available(test) {
        return;
    }
    let Some(corpus) = Corpus::get(test) else { return };
    let Some(mut judge) = Judge::start(test) else {
        return;
    };
    let mut rows = Vec::new();
    let mut unread = Vec::new();
    for object in &corpus.objects {
        match ours(object) {
            Ok(programs) => rows.extend(programs.into_iter().map(|(program, ours)| Row {
                kernel: judge.load(&object.path, &program).map(drop),
                object: object.name.clone(),
                program,
                ours,
            })),
            Err(error) => {
                let why = error.to_string();
                unread.push((
                    object.name.clone(),
                    why.split(';').next().unwrap_or_default().to_owned(),
                ));
            }
        }
    }
    let n = count(&corpus, &rows);
    println!(
        "{} objects, {} XDP programs, {} accepted by the kernel, {} of them outside the tables; of {} accepted here: {}",
        n.objects, n.programs, n.kernel, n.outside, n.in_scope, n.both
    );
    for row in &rows {
        if let (Ours::Refused(why), Ok(())) = (&row.ours, &row.kernel) {
            println!(
                "accepted by the kernel only: {} {}: {why}",
                row.object, row.program
            );
        }
    }
    agrees_with_the_page(&page(&corpus, &rows, &unread));
    assert!(n.both >= 100, "only {} programs were accepted by both", n.both);
    assert!(n.both * 100 >= n.in_scope * 95, "{} of {}", n.both, n.in_scope);
}

/// Compares with docs/compat-xdp.md, or writes it when asked to.
fn agrees_with_the_page(now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compat-xdp.md");
    if std::env::var_os("MILLRACE_WRITE_COMPAT").is_some() {
        return std::fs::write(&path, now).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    let judged_by = |page: &str| {
        page.lines()
            .find(|l| l.starts_with("Judged by"))
            .map(str::to_owned)
    };
    if judged_by(&written) == judged_by(now) {
        let differs = now.lines().zip(written.lines()).find(|(a, b)| a != b);
        assert!(
            now == written,
            "docs/compat-xdp.md is not of today ({differs:?}); run `make compat`"
        );
        return;
    }
    // Another kernel or compiler may judge otherwise; but what it accepts and we refuse has to be on the page.
    let refused = |page: &str| {
        let from = page.find("## Accepted by the kernel, refused here").unwrap_or(0);
        let rows = page[from..].lines().skip(1).take_while(|l| !l.starts_with("## "));
        let programs = rows.filter_map(|l| l.rsplit_once(" | ").map(|(row, _)| row.to_owned()));
        programs.collect::<Vec<_>>()
    };
    let known = refused(&written);
    println!("docs/compat-xdp.md is about {:?}", judged_by(&written));
    for row in refused(now) {
        assert!(
            known.contains(&row),
            "docs/compat-xdp.md does not list {row}; run `make compat`"
        );
    }
}
