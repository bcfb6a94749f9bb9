//! `millrace prog`.

use super::prog_run::RunArgs;
use super::words::{Words, queue};
use super::{CliError, Context, rows, text, words_of};
use crate::control::client::ClientError;
use crate::control::protocol::MAX_REQUEST;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use millrace_ebpf::Hook;
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::Read;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    infer_subcommands = true,
    after_help = "Examples:\n  millrace prog verify filter.bpf.o --explain\n  millrace prog verify meta.bpf.o --hints ixgbe\n  millrace prog load filter.bpf.o filter\n  millrace prog load lb.bpf.o lb2 function xdp_lb reuse conntrack\n  millrace prog attach filter port eth0 queue 0\n  millrace prog load steer.bpf.o steer        a program of section xps, socket, tc or classifier\n  millrace prog attach xps steer port eth0    it chooses TX queues: it returns one, or -1 to leave it to the maps\n  millrace prog detach xps port eth0\n  millrace prog replace lb2 port eth0\n  millrace prog detach port eth0\n  millrace prog show"
)]
pub(super) struct ProgArgs {
    #[command(subcommand)]
    verb: Option<ProgVerb>,
}

#[derive(Subcommand)]
enum ProgVerb {
    /// Programs that can be attached, and where they are
    #[command(alias = "list")]
    Show {
        /// Name of one program
        name: Option<String>,
    },
    /// Say whether programs of an object would be accepted, and why not; needs no instance
    Verify(VerifyArgs),
    /// Ship an ELF object made by clang to the instance: FILE NAME [type xdp|xps] [function F] [reuse MAP]... [hints PORT]
    Load {
        /// The object, such as filter.bpf.o
        file: PathBuf,
        /// Name to attach it by
        name: String,
        /// [type xdp|xps] [function F] [reuse MAP]... [hints PORT]
        words: Vec<String>,
        /// If the verifier refuses it, also tell how it came to the refused instruction
        #[arg(long)]
        explain: bool,
    },
    /// Try a program on the frames of a capture, without instance or device
    Run(RunArgs),
    /// Forget a program that is attached nowhere
    Unload {
        /// Its name
        name: String,
    },
    /// Run a program on queues that have none: [xdp|xps] NAME port PORT [queue N|all] [engine interp|jit|rbpf]
    Attach {
        /// [xdp|xps] NAME port PORT [queue N|all] [engine E]
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Run a program in the place of another; no packet is lost: [xdp|xps] NAME port PORT [queue N|all] [engine E]
    Replace {
        /// [xdp|xps] NAME port PORT [queue N|all] [engine E]
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Take programs away: [xdp|xps] port PORT [queue N|all]
    Detach {
        /// [xdp|xps] port PORT [queue N|all]
        #[arg(required = true)]
        words: Vec<String>,
    },
}

/// Words for the two kinds of programs, those of users of tc and bpftool among them.
pub(super) const HOOKS: &[&str] = &["xdp", "xps", "socket", "tc", "classifier", "action"];

/// A kind of program by its name.
pub(super) fn hook(name: &str) -> Result<Hook, CliError> {
    name.parse()
        .map_err(|e: millrace_ebpf::LoadError| CliError::Usage(e.to_string()))
}

/// What `millrace prog verify` is asked.
#[derive(Args)]
pub(super) struct VerifyArgs {
    /// The object, such as filter.bpf.o
    pub file: PathBuf,
    /// Only the program of this name
    #[arg(long, value_name = "NAME")]
    pub program: Option<String>,
    /// Kind of the programs, xdp or xps, where the section's name does not say it
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Load them for queues of this model, such as ixgbe, for programs that read struct millrace_rx_meta
    #[arg(long, value_name = "MODEL")]
    pub hints: Option<String>,
    /// Also tell how the refused instruction was reached, or what was proved
    #[arg(long)]
    pub explain: bool,
}

impl ProgArgs {
    /// A verb that needs no instance.
    pub(super) fn offline(&self) -> Option<&RunArgs> {
        match &self.verb {
            Some(ProgVerb::Run(args)) => Some(args),
            _ => None,
        }
    }

    /// The one verb that needs no instance.
    pub(super) fn verify(&self) -> Option<&VerifyArgs> {
        match &self.verb {
            Some(ProgVerb::Verify(args)) => Some(args),
            _ => None,
        }
    }
}

pub(super) fn run(cx: &mut Context<'_>, args: ProgArgs) -> Result<(), CliError> {
    match args.verb.unwrap_or(ProgVerb::Show { name: None }) {
        ProgVerb::Show { name } => {
            let answer = cx.call("prog.list", Value::Null)?;
            let answer: Value = rows(&answer)
                .iter()
                .filter(|p| name.as_ref().is_none_or(|n| p["name"] == **n))
                .cloned()
                .collect();
            if let (Some(name), []) = (&name, rows(&answer)) {
                return Err(CliError::Usage(format!(
                    "there is no program {name:?}; `millrace prog show` lists them"
                )));
            }
            cx.show(&answer, |v| Ok(rows(v).iter().map(one).collect()))
        }
        ProgVerb::Run(args) => super::prog_run::run(&args, cx.json, cx.out),
        ProgVerb::Verify(args) => super::verify::run(&args, cx.json, cx.out),
        ProgVerb::Load {
            file,
            name,
            words,
            explain,
        } => load(cx, file, name, words, explain),
        ProgVerb::Unload { name } => cx.done("prog.unload", json!({"name": name})),
        ProgVerb::Attach { words } => {
            let args = attach(
                words,
                "millrace prog attach [xdp|xps] NAME port PORT [queue N|all] [engine E]",
            )?;
            cx.done("prog.attach", args)
        }
        ProgVerb::Replace { words } => {
            let args = attach(
                words,
                "millrace prog replace [xdp|xps] NAME port PORT [queue N|all] [engine E]",
            )?;
            cx.done("prog.replace", args)
        }
        ProgVerb::Detach { words } => {
            let mut words = Words::new(words, "millrace prog detach [xdp|xps] port PORT [queue N|all]");
            let hook = words.one_of(HOOKS);
            words.skip(&["port", "dev"]);
            let port = words.next("the port's name")?;
            let mut args = json!({"port": port, "hook": hook});
            if words.skip(&["queue"]) {
                args["queue"] = queue(&mut words)?;
            }
            words.end()?;
            cx.done("prog.detach", args)
        }
    }
}

fn load(
    cx: &mut Context<'_>,
    path: PathBuf,
    name: String,
    words: Vec<String>,
    explain: bool,
) -> Result<(), CliError> {
    let mut words = Words::new(
        words,
        "millrace prog load FILE NAME [type xdp|xps] [function F] [reuse MAP]... [hints PORT]",
    );
    let (mut function, mut reuse, mut kind, mut hints) = (None, Vec::new(), None, None);
    while let Some(word) = words.next_if_any() {
        match word.as_str() {
            "type" => kind = Some(words.next("the type, xdp or xps")?),
            "function" => function = Some(words.next("the function's name")?),
            "reuse" => reuse.push(words.next("the map's name")?),
            "hints" => hints = Some(words.next("the port's name")?),
            other => return Err(words.error(format_args!("{other:?} is not expected here"))),
        }
    }
    // The line has to fit the protocol: base64 takes four bytes for three, and the rest of the request some more.
    let most = MAX_REQUEST / 4 * 3 - (16 << 10);
    let mut elf = Vec::new();
    let file = std::fs::File::open(&path).and_then(|f| f.take(most as u64 + 1).read_to_end(&mut elf));
    file.map_err(|source| CliError::File {
        path: path.clone(),
        source,
    })?;
    if elf.len() > most {
        let path = path.display();
        return Err(CliError::Usage(format!(
            "{path} has more than {most} bytes; strip it with llvm-strip -g"
        )));
    }
    let args = json!({
        "name": name, "elf": STANDARD.encode(elf), "function": function, "reuse": reuse, "type": kind,
        "explain": explain, "hints": hints,
    });
    let answer = match cx.call("prog.load", args) {
        Err(CliError::Client(ClientError::Refused(error))) if !cx.json => {
            let detail = error.detail.as_deref().unwrap_or_default();
            cx.out.write_all(detail.as_bytes())?;
            return Err(ClientError::Refused(error).into());
        }
        answer => answer?,
    };
    cx.show(&answer, |v| Ok(one(v)))
}

fn attach(words: Vec<String>, usage: &'static str) -> Result<Value, CliError> {
    let mut words = Words::new(words, usage);
    // As in `bpftool net attach xdp name NAME dev DEV`; the word may be left out, as the program knows what it is.
    let hook = if words.second_is(&["port", "dev"]) {
        None
    } else {
        words.one_of(HOOKS)
    };
    words.skip(&["name"]);
    let name = words.next("the program's name")?;
    if !words.skip(&["port", "dev"]) {
        return Err(words.error("the port is missing"));
    }
    let mut args = json!({"name": name, "port": words.next("the port's name")?, "hook": hook});
    while let Some(word) = words.next_if_any() {
        match word.as_str() {
            "queue" => args["queue"] = queue(&mut words)?,
            "engine" => args["engine"] = words.next("the engine")?.into(),
            other => return Err(words.error(format_args!("{other:?} is not expected here"))),
        }
    }
    Ok(args)
}

fn one(program: &Value) -> String {
    let frags = if program["frags"] == true { " frags" } else { "" };
    let mut out = format!(
        "{}: function {} section {}{frags} type {}\n    maps {}\n",
        text(&program["name"]),
        text(&program["function"]),
        text(&program["section"]),
        text(&program["type"]),
        words_of(&program["maps"])
    );
    if program["reads"].is_string() {
        let _ = writeln!(out, "    reads {}", text(&program["reads"]));
    }
    if let Some(micros) = program["compiled"]["microseconds"].as_u64() {
        let _ = writeln!(
            out,
            "    {} instructions compiled in {:.1} ms to {} bytes",
            program["instructions"],
            micros as f64 / 1000.0,
            program["compiled"]["bytes"]
        );
    }
    for at in rows(&program["attached"]) {
        let _ = writeln!(
            out,
            "    port {} queue {} engine {}",
            text(&at["port"]),
            at["queue"],
            text(&at["engine"])
        );
    }
    out
}
