//! The program behind `make run`, with fewer requests.

use millrace_tests::netns;
use millrace_tests::process::{Process, sibling};
use rustix::process::Signal;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn start(args: &[&str], temporary: &Path, log: &Path) -> Process {
    let mut command = Command::new(sibling("main-job").expect("the programs are built"));
    let output = File::create(log).expect("a log");
    command
        .args(args)
        .env("TMPDIR", temporary)
        .stdout(output.try_clone().expect("the log, again"))
        .stderr(output);
    Process::spawn("main-job", command).expect("it starts")
}

/// Namespaces that a process with this id made.
fn namespaces_of(id: u32) -> Vec<String> {
    let all = netns::run(&["ip", "netns", "list"]).expect("ip lists them");
    let all = String::from_utf8_lossy(&all.stdout).into_owned();
    let ours = format!("-{id}-");
    all.lines()
        .filter(|line| line.contains(&ours))
        .map(str::to_owned)
        .collect()
}

fn nothing_is_left(id: u32, temporary: &Path) {
    assert_eq!(namespaces_of(id), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(temporary)
        .expect("the folder")
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_main_job_is_done_and_undone() {
    if let Err(reason) = netns::available() {
        return println!("SKIP the_main_job_is_done_and_undone: {reason}");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let temporary = dir.path().join("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    open_to_all(dir.path());
    open_to_all(&temporary);
    let log = dir.path().join("log");
    let mut job = start(&["--requests", "800"], &temporary, &log);
    let status = job.wait(Duration::from_secs(120));
    let output = std::fs::read_to_string(&log).expect("its output");
    let last = output.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("main-job: requests=800 ok=")
            && last.contains(" failed=0 ")
            && last.ends_with(" backends=3 moved=0"),
        "{output}"
    );
    assert!(status.is_some_and(|s| s.success()), "{status:?}: {output}");
    nothing_is_left(job.id(), &temporary);
}

#[test]
fn the_main_job_is_undone_when_it_is_interrupted_while_it_sets_up_and_while_it_runs() {
    let name = "the_main_job_is_undone_when_it_is_interrupted_while_it_sets_up_and_while_it_runs";
    if let Err(reason) = netns::available() {
        return println!("SKIP {name}: {reason}");
    }
    for moment in ["Building the site", "Starting nic-model", "  lost "] {
        let dir = tempfile::tempdir().expect("a folder");
        let temporary = dir.path().join("tmp");
        std::fs::create_dir(&temporary).expect("a folder");
        open_to_all(dir.path());
        open_to_all(&temporary);
        let log = dir.path().join("log");
        let mut job = start(&["--requests", "100000"], &temporary, &log);
        let mut output = String::new();
        for _ in 0..3_000 {
            output = std::fs::read_to_string(&log).expect("its output");
            if output.contains(moment) || job.ended().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(output.contains(moment), "{moment}: {output}");
        job.signal(Signal::INT);
        let status = job.wait(Duration::from_secs(60));
        let output = std::fs::read_to_string(&log).expect("its output");
        assert!(
            status.is_some_and(|s| s.code() == Some(1)),
            "{status:?}: {output}"
        );
        assert!(
            output.contains("interrupted; what was made is being undone"),
            "{output}"
        );
        nothing_is_left(job.id(), &temporary);
    }
}

/// The programs it starts give up their privileges: they must still come to their files.
fn open_to_all(folder: &Path) {
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
}
