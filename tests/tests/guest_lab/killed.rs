//! A killed lab leaves no model, no process and no namespace.

use millrace_tests::guest::model::{Model, Peer};
use millrace_tests::netns::{self, NAMED, Netns};
use millrace_tests::process::Process;
use millrace_tests::reaper::Reaper;
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the lab that is to be killed keeps its files; without it, it does not start.
const DIR: &str = "MILLRACE_TEST_LAB";
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_killed_lab_leaves_no_process_and_no_namespace() {
    if let Err(reason) = netns::available() {
        println!("SKIP a_killed_lab_leaves_no_process_and_no_namespace: {reason}");
        return;
    }
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command
            .args([
                "--exact",
                "killed::a_lab_that_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut lab = Process::spawn("a lab", command).expect("a lab");
        let started = BufReader::new(lab.stdout().expect("its output"))
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("started ").map(|(_, pids)| pids.to_owned()))
            .expect("a lab that started something");
        let pids: Vec<&str> = started.split(' ').collect();
        assert_eq!(pids.len(), 2, "{started}");
        let owner = lab.id();
        let namespaces = Netns::made_by(owner);
        assert_eq!(namespaces.len(), 1, "the lab has one namespace");

        lab.signal(signal);
        assert!(lab.wait(LIMIT).is_some(), "{signal:?} ends the lab");
        let there = || -> Vec<String> {
            let alive = pids
                .iter()
                .filter(|pid| runs(pid))
                .map(|pid| format!("process {pid}"));
            let named = namespaces.iter().filter(|ns| Path::new(NAMED).join(ns).exists());
            alive.chain(named.map(|ns| format!("namespace {ns}"))).collect()
        };
        let deadline = Instant::now() + LIMIT;
        while !there().is_empty() {
            assert!(
                Instant::now() < deadline,
                "after {signal:?} there is still {:?}",
                there()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether a process runs, and is not just waited for by nobody.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// What the test above starts and kills: a model in a namespace, and a process that ignores SIGTERM.
#[test]
#[ignore = "waits to be killed by another test"]
fn a_lab_that_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let _reaper = Reaper::start().expect("a reaper");
    let peer = Peer::new("killed").expect("a namespace");
    let model = Model::start(&peer, "ixgbe", "packet:wire", Path::new(&dir), &[]).expect("a model");
    let mut stubborn = Command::new("sh");
    stubborn.args(["-c", "trap '' TERM INT; while :; do sleep 1; done"]);
    let stubborn = Process::spawn("a stubborn process", stubborn).expect("a process");
    println!("started {} {}", model.id(), stubborn.id());
    std::thread::sleep(LIMIT);
}
