//! Real XDP programs: objects that Debian ships, and those that its kernel sources compile to.
//!
//! The sources are fetched once (some 150 MB), of which a tenth is unpacked; the objects are compiled once for each
//! compiler and running kernel, whose types they are compiled against. All of it lies in the cache.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::debian::{self, Outcome, run};

/// One object file.
pub struct RealObject {
    /// Where from and its file's name: `selftests/xdp_tx.o`.
    pub name: String,
    pub bytes: Vec<u8>,
    pub path: PathBuf,
}

/// A source file that gave no object.
pub struct NotCompiled {
    pub name: String,
    /// The compiler's first error.
    pub why: String,
}

/// Everything there is.
pub struct Corpus {
    pub objects: Vec<RealObject>,
    pub not_compiled: Vec<NotCompiled>,
}

/// Changes when objects are compiled otherwise, so that cached ones are not used.
const REVISION: u32 = 3;
const SOURCE: &str = "linux-source-6.12";
/// The parts of the kernel's tree that are unpacked.
const PARTS: [&str; 4] = [
    "samples/bpf",
    "tools/testing/selftests/bpf",
    "tools/lib/bpf",
    "tools/include",
];
/// Types that the kernel's own headers would bring to its samples.
const TYPES_H: &str = "#include <linux/types.h>\n\
    typedef __u8 u8;\ntypedef __u16 u16;\ntypedef __u32 u32;\ntypedef __u64 u64;\n\
    typedef __s8 s8;\ntypedef __s16 s16;\ntypedef __s32 s32;\ntypedef __s64 s64;\n\
    #define __force\n\
    #define htons(x) __builtin_bswap16(x)\n#define ntohs(x) __builtin_bswap16(x)\n\
    #define cpu_to_be32(x) __builtin_bswap32(x)\n\
    #define memcpy __builtin_memcpy\n#define memset __builtin_memset\n\
    #define max(a, b) ((a) > (b) ? (a) : (b))\n\
    #define AF_INET 2\n#define AF_INET6 10\n\
    #include <linux/tcp.h>\n#include <linux/udp.h>\n";
/// What some samples are linked with.
const SAMPLE: &str = "xdp_sample.bpf";

impl Corpus {
    /// Everything, or `None` and a line that says what is missing.
    pub fn get(test: &str) -> Option<Corpus> {
        match Corpus::gather() {
            Ok(corpus) => Some(corpus),
            Err(why) => {
                println!("SKIP {test}: {why}");
                None
            }
        }
    }

    fn gather() -> Outcome<Corpus> {
        let mut corpus = kernel_objects()?;
        for (from, paths) in [("libxdp", debian::libxdp()?), ("cilium", debian::cilium()?)] {
            for path in paths {
                corpus.objects.push(read(from, &path)?);
            }
        }
        corpus.objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(corpus)
    }
}

fn read(from: &str, path: &Path) -> Outcome<RealObject> {
    Ok(RealObject {
        name: format!("{from}/{}", file_name(path)),
        bytes: fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?,
        path: path.to_path_buf(),
    })
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The kernel's samples and selftests that have XDP programs, compiled.
fn kernel_objects() -> Outcome<Corpus> {
    let clang = super::common::clang().ok_or("no clang to compile BPF programs with; run `make deps`")?;
    let version = String::from_utf8_lossy(&run(Command::new(clang).arg("--version"))?).into_owned();
    let version = tag(version.lines().next().unwrap_or_default());
    let release = tag(&String::from_utf8_lossy(&run(Command::new("uname").arg("-r"))?));
    let cache = debian::cache()?;
    let _lock = debian::lock(&cache)?;
    let tree = debian::once(&cache, SOURCE, unpack_source)?;
    let bpftool = debian::unpacked(&cache, "bpftool")?.join("usr/sbin/bpftool");
    let types = debian::once(&cache, &format!("types-{REVISION}-{release}"), |dir| {
        types(&bpftool, dir)
    })?;
    let made = debian::once(
        &cache,
        &format!("objects-{REVISION}-{release}-{version}"),
        |dir| compile_all(clang, &bpftool, &tree, &types, dir),
    )?;

    let mut corpus = Corpus {
        objects: Vec::new(),
        not_compiled: Vec::new(),
    };
    for from in ["samples", "selftests"] {
        let dir = made.join(from);
        for path in debian::objects(&dir) {
            corpus.objects.push(read(from, &path)?);
        }
        for entry in fs::read_dir(&dir).map_err(|e| e.to_string())?.flatten() {
            if entry.path().extension().is_some_and(|e| e == "error") {
                corpus.not_compiled.push(NotCompiled {
                    name: format!("{from}/{}", file_name(&entry.path().with_extension("c"))),
                    why: fs::read_to_string(entry.path()).unwrap_or_default(),
                });
            }
        }
    }
    corpus.not_compiled.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(corpus)
}

/// What may stand in a file's name.
fn tag(text: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || c == '.';
    text.trim()
        .chars()
        .map(|c| if kept(c) { c } else { '-' })
        .collect()
}

fn unpack_source(dir: &Path) -> Outcome<()> {
    let deb = debian::fetch(SOURCE, dir)?;
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(dir))?;
    let tarball = dir.join(format!("usr/src/{SOURCE}.tar.xz"));
    let mut tar = Command::new("tar");
    tar.arg("-xJf").arg(&tarball).arg("-C").arg(dir);
    tar.arg("--strip-components=1");
    run(tar.args(PARTS.map(|part| format!("{SOURCE}/{part}"))))
        .map_err(|e| format!("{SOURCE} cannot be unpacked ({e})"))?;
    fs::remove_file(&deb).map_err(|e| e.to_string())?;
    fs::remove_dir_all(dir.join("usr")).map_err(|e| e.to_string())
}

/// Headers that the programs include but the kernel's tree does not hold: the running kernel's types, libbpf's helpers.
fn types(bpftool: &Path, dir: &Path) -> Outcome<()> {
    let vmlinux = Path::new("/sys/kernel/btf/vmlinux");
    if !vmlinux.exists() {
        return Err(
            "this kernel has no /sys/kernel/btf/vmlinux, whose types the programs are compiled against"
                .into(),
        );
    }
    let header = run(Command::new(bpftool)
        .args(["btf", "dump", "file"])
        .arg(vmlinux)
        .args(["format", "c"]))?;
    let defs = "/usr/include/bpf/bpf_helper_defs.h";
    let write = |name: &str, bytes: &[u8]| {
        fs::write(dir.join(name), bytes).map_err(|e| format!("writing {name}: {e}"))
    };
    write("vmlinux.h", &header)?;
    write("types.h", TYPES_H.as_bytes())?;
    let defs = fs::read(defs).map_err(|e| format!("{defs}: {e}; run `make deps`"))?;
    write("bpf_helper_defs.h", &defs)
}

fn compile_all(clang: &str, bpftool: &Path, tree: &Path, types: &Path, out: &Path) -> Outcome<()> {
    // Programs include libbpf's headers as <bpf/...>.
    let link = types.join("bpf");
    if !link.exists() {
        std::os::unix::fs::symlink(tree.join("tools/lib/bpf"), &link).map_err(|e| e.to_string())?;
    }
    let selftests = tree.join("tools/testing/selftests/bpf");
    let compile = |source: &Path, to: &Path, kernel_types: bool| {
        let mut command = Command::new(clang);
        command
            .args(["-O2", "-g", "-w", "-target", "bpf", "-mcpu=v3"])
            .args(["-D__TARGET_ARCH_x86", "-DENABLE_ATOMICS_TESTS"]);
        for folder in [
            types,
            &selftests,
            &tree.join("tools/include/uapi"),
            &tree.join("tools/include"),
        ] {
            command.arg("-I").arg(folder);
        }
        for arch in ["x86_64", "aarch64"] {
            command.args(["-idirafter", &format!("/usr/include/{arch}-linux-gnu")]);
        }
        if kernel_types {
            command.arg("-include").arg(types.join("types.h"));
        }
        command.arg("-c").arg(source).arg("-o").arg(to).output()
    };
    let folders = [
        ("samples", tree.join("samples/bpf")),
        ("selftests", selftests.join("progs")),
    ];
    for (from, folder) in folders {
        let to = out.join(from);
        fs::create_dir_all(&to).map_err(|e| e.to_string())?;
        let mut sources: Vec<PathBuf> = fs::read_dir(&folder)
            .map_err(|e| format!("{}: {e}", folder.display()))?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "c"))
            .filter(|path| fs::read_to_string(path).is_ok_and(|text| has_xdp(&text)))
            .collect();
        sources.sort();
        for source in sources {
            let name = file_name(&source.with_extension(""));
            let text = fs::read_to_string(&source).unwrap_or_default();
            let object = to.join(format!("{name}.o"));
            let kernel_types = from == "samples" && !text.contains("vmlinux.h");
            let done = compile(&source, &object, kernel_types).map_err(|e| format!("{clang}: {e}"))?;
            if !done.status.success() {
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                let why = said
                    .lines()
                    .find_map(|l| l.split_once("error: ").map(|(_, why)| why))
                    .unwrap_or("the compiler does not say why");
                fs::write(to.join(format!("{name}.error")), why).map_err(|e| e.to_string())?;
            } else if text.contains("xdp_sample.bpf.h") {
                // The samples' Makefile links these, too.
                let (part, whole) = (out.join("part.o"), out.join("whole.o"));
                let sample = folder.join(SAMPLE).with_extension("bpf.c");
                compile(&sample, &part, false).map_err(|e| format!("{clang}: {e}"))?;
                run(Command::new(bpftool)
                    .args(["gen", "object"])
                    .args([&whole, &object, &part]))?;
                fs::rename(&whole, &object).map_err(|e| e.to_string())?;
                fs::remove_file(&part).map_err(|e| e.to_string())?;
            }
        }
    }
    Ok(())
}

/// Whether a source file puts a function into a section for XDP.
fn has_xdp(text: &str) -> bool {
    text.contains("SEC(\"xdp") || text.contains("SEC(\"?xdp")
}

/// Whether a section is one for XDP programs.
pub fn is_xdp(section: &str) -> bool {
    let section = section.strip_prefix('?').unwrap_or(section);
    section == "xdp" || ["xdp/", "xdp.", "xdp_"].iter().any(|p| section.starts_with(p))
}
