//! The program itself: status codes, one-line errors, help that teaches.

use std::fs;
use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace-setup"))
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn status_of_this_host_works_for_everybody() {
    let output = run(&["status", "--json"]);
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["iommu"]["groups"].is_u64() && json["advice"].is_array());
}

#[test]
fn an_error_is_one_line_and_a_failure() {
    for args in [
        &["bind", "0000:ff:1f.7"][..],
        &["hugepages", "lots"],
        &["unbind", "eth9"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.starts_with("millrace-setup: ") && stderr.lines().count() == 1,
            "{stderr}"
        );
        assert!(output.stdout.is_empty());
    }
    assert_eq!(
        run(&["bind"]).status.code(),
        Some(2),
        "clap's own status for a wrong command line"
    );
}

#[test]
fn help_shows_examples_and_says_where_changes_are_recorded() {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for says in [
        "sudo millrace-setup bind 0000:17:00.0",
        "--dry-run",
        "/run/millrace-setup.json",
        "vfio:0000:17:00.0",
    ] {
        assert!(help.contains(says), "{says}: {help}");
    }
    assert!(!help.contains("--root"));
}

#[test]
fn a_dry_run_leaves_every_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("sys/kernel/mm/hugepages/hugepages-2048kB");
    fs::create_dir_all(&pages).unwrap();
    fs::write(pages.join("nr_hugepages"), "3\n").unwrap();
    let root = dir.path().to_str().unwrap();
    let output = run(&["--root", root, "hugepages", "64M", "--dry-run"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        "would: echo 32 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages\n"
    );
    assert_eq!(fs::read_to_string(pages.join("nr_hugepages")).unwrap(), "3\n");
    assert!(!dir.path().join("run").exists());
}
