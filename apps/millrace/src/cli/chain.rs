//! `millrace chain`: several programs in front of a queue.

use super::table::table;
use super::words::{Words, queue};
use super::{CliError, Context, rows, text, words_of};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

#[derive(Args)]
#[command(
    infer_subcommands = true,
    after_help = "Programs of a chain run by priority (lower first), then by name. After each, its chain-call actions say whether\nthe next one runs or its verdict stands; past the last one a frame is passed. Both stand in the object, as libxdp\nhas it:\n    struct { __uint(priority, 10); __uint(XDP_PASS, 1); } XDP_RUN_CONFIG(function);\nand may be overridden here. Without them a program has priority 50 and the next one runs after XDP_PASS.\nEvery change is one step: no packet meets half a chain.\n\nExamples:\n  millrace chain set firewall count lb port eth0\n  millrace chain add dump port eth0 queue 0 priority 5 actions pass,drop\n  millrace chain del dump port eth0 queue 0\n  millrace chain show"
)]
pub(super) struct ChainArgs {
    #[command(subcommand)]
    verb: Option<ChainVerb>,
}

#[derive(Subcommand)]
enum ChainVerb {
    /// What runs in front of each queue, in its order: [port] [PORT]
    #[command(alias = "list")]
    Show {
        /// [port] PORT
        words: Vec<String>,
    },
    /// Run exactly these programs: NAME... port PORT [queue N|all] [engine E]
    Set {
        /// NAME... port PORT [queue N|all] [engine E]
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Run one more: NAME port PORT [queue N|all] [priority N] [actions pass,drop...] [engine E]
    Add {
        /// NAME port PORT [queue N|all] [priority N] [actions pass,drop...] [engine E]
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Run one less: NAME port PORT [queue N|all]
    #[command(alias = "delete")]
    Del {
        /// NAME port PORT [queue N|all]
        #[arg(required = true)]
        words: Vec<String>,
    },
}

pub(super) fn run(cx: &mut Context<'_>, args: ChainArgs) -> Result<(), CliError> {
    match args.verb.unwrap_or(ChainVerb::Show { words: Vec::new() }) {
        ChainVerb::Show { words } => {
            let mut words = Words::new(words, "millrace chain show [PORT]");
            words.skip(&["port", "dev"]);
            let port = words.next_if_any();
            words.end()?;
            let answer = cx.call("chain.show", json!({"port": port}))?;
            cx.show(&answer, |v| {
                let lines: Vec<_> = rows(v).iter().map(cells).collect();
                let header = ["PORT", "QUEUE", "PROGRAM", "PRIORITY", "ENGINE", "NEXT AFTER"];
                Ok(table(&header, &lines))
            })
        }
        ChainVerb::Set { words } => {
            let mut words = Words::new(
                words,
                "millrace chain set NAME... port PORT [queue N|all] [engine E]",
            );
            let mut programs = Vec::new();
            while !words.skip(&["port", "dev"]) {
                programs.push(json!({"name": words.next("the word port")?}));
            }
            if programs.is_empty() {
                return Err(words.error("the programs are missing"));
            }
            let args = json!({"programs": programs, "port": words.next("the port's name")?});
            cx.done("chain.set", rest(words, args, &["queue", "engine"])?)
        }
        ChainVerb::Add { words } => {
            let usage = "millrace chain add NAME port PORT [queue N|all] [priority N] [actions pass,drop...] [engine E]";
            let (words, args) = named(words, usage)?;
            let args = rest(words, args, &["queue", "engine", "priority", "actions"])?;
            cx.done("chain.add", args)
        }
        ChainVerb::Del { words } => {
            let (words, args) = named(words, "millrace chain del NAME port PORT [queue N|all]")?;
            cx.done("chain.del", rest(words, args, &["queue"])?)
        }
    }
}

fn named(words: Vec<String>, usage: &'static str) -> Result<(Words, Value), CliError> {
    let mut words = Words::new(words, usage);
    words.skip(&["name"]);
    let name = words.next("the program's name")?;
    if !words.skip(&["port", "dev"]) {
        return Err(words.error("the port is missing"));
    }
    let args = json!({"name": name, "port": words.next("the port's name")?});
    Ok((words, args))
}

/// Keywords with their values, up to the end.
fn rest(mut words: Words, mut args: Value, known: &[&str]) -> Result<Value, CliError> {
    while let Some(word) = words.next_if_any() {
        if !known.contains(&word.as_str()) {
            return Err(words.error(format_args!("{word:?} is not expected here")));
        }
        match word.as_str() {
            "queue" => args["queue"] = queue(&mut words)?,
            "engine" => args["engine"] = words.next("the engine")?.into(),
            "priority" => {
                let number = words.next("the priority")?;
                let priority: Result<u32, _> = number.parse();
                args["priority"] = priority
                    .map_err(|_| words.error(format_args!("{number:?} is no priority")))?
                    .into();
            }
            _ => {
                let list = words.next("the verdicts")?;
                args["actions"] = list.split(',').filter(|word| !word.is_empty()).collect();
            }
        }
    }
    Ok(args)
}

fn cells(link: &Value) -> Vec<String> {
    let after = match &link["chain_actions"] {
        Value::Null => "(alone)".to_string(),
        actions => words_of(actions),
    };
    let mut cells: Vec<_> = ["port", "queue", "program", "priority", "engine"]
        .map(|name| text(&link[name]))
        .to_vec();
    cells.push(if after.is_empty() { "-".into() } else { after });
    cells
}
