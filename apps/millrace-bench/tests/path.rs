//! `millrace-bench path` as a user calls it. Times are not judged here; counted instructions must repeat.

use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
        .args(args)
        .output()
        .unwrap()
}

fn rows(args: &[&str]) -> Result<Vec<serde_json::Value>, String> {
    let output = bench(args);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bench"], "path");
    Ok(report["rows"].as_array().unwrap().clone())
}

const QUICK: [&str; 5] = ["path", "--json", "--millis", "1", "--path"];

#[test]
fn each_case_is_a_row_with_the_agreed_names() {
    let args = [
        &QUICK[..],
        &[
            "scalar",
            "--no-instructions",
            "--state",
            "L3",
            "--metadata",
            "full",
        ],
    ]
    .concat();
    let rows = rows(&args).unwrap();
    let cases: Vec<_> = rows
        .iter()
        .map(|row| (row["scenario"].as_str().unwrap(), row["burst"].as_u64().unwrap()))
        .collect();
    let expected: Vec<_> = ["rx_drop", "forward", "tx", "chain", "worker"]
        .into_iter()
        .flat_map(|scenario| [1, 4, 8, 32, 64].map(|burst| (scenario, burst)))
        .collect();
    assert_eq!(cases, expected);
    for row in &rows {
        for (key, value) in [
            ("family", "ixgbe"),
            ("state", "L3"),
            ("metadata", "full"),
            ("path", "scalar"),
        ] {
            assert_eq!(row[key], value, "{key}");
        }
        assert_eq!(row["ring"], 1024);
        assert!(
            row["cycles_per_packet"].is_f64() && row["vs_floor"].is_f64(),
            "{row}"
        );
        assert!(row["instructions_per_packet"].is_null());
    }
}

#[test]
fn instructions_of_the_path_repeat_and_a_larger_burst_takes_fewer() {
    let count = || -> Result<(f64, f64), String> {
        let some = [
            "scalar",
            "--ring",
            "256",
            "--scenario",
            "forward",
            "--burst",
            "64",
            "--burst",
            "1",
        ];
        let rows = rows(&[&QUICK[..], &some].concat())?;
        let count = |i: usize| rows[i]["instructions_per_packet"].as_f64().unwrap();
        Ok((count(0), count(1)))
    };
    let (many, one) = match count() {
        Ok(counts) => counts,
        Err(why) if why.contains("instructions cannot be counted") => {
            println!("SKIP instructions_of_the_path_repeat_and_a_larger_burst_takes_fewer: {why}");
            return;
        }
        Err(why) => panic!("{why}"),
    };
    assert!(30.0 < many && many < one, "{many} at burst 64, {one} at burst 1");
    let (again, _) = count().unwrap();
    assert!(
        (many - again).abs() < 0.02 * many,
        "{many} and then {again} instructions a packet"
    );
}

#[test]
fn a_breakdown_adds_up_to_about_the_whole() {
    let some = [
        "scalar",
        "--ring",
        "256",
        "--scenario",
        "forward",
        "--burst",
        "32",
        "--breakdown",
    ];
    let rows = match rows(&[&QUICK[..], &some].concat()) {
        Err(why) if why.contains("instructions cannot be counted") => {
            println!("SKIP a_breakdown_adds_up_to_about_the_whole: {why}");
            return;
        }
        rows => rows.unwrap(),
    };
    let whole = rows[0]["instructions_per_packet"].as_f64().unwrap();
    let shares = rows[0]["breakdown"].as_array().unwrap();
    assert_eq!(shares.len(), 4);
    let sum: f64 = shares
        .iter()
        .map(|share| share["instructions_per_packet"].as_f64().unwrap())
        .sum();
    assert!((0.5..1.5).contains(&(sum / whole)), "{sum} of {whole}");
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_can() {
    for (option, value, told) in [
        ("--burst", "0", "--burst"),
        ("--burst", "129", "--burst"),
        ("--burst", "many", "--burst"),
        ("--ring", "1000", "1024"),
        ("--state", "hot", "warm"),
        ("--scenario", "rx", "rx_drop"),
        ("--metadata", "some", "plain"),
        ("--path", "mmx", "avx2"),
    ] {
        let output = bench(&["path", option, value]);
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(told), "{message}");
    }
}

#[test]
fn a_baseline_that_is_none_is_refused() {
    let output = bench(&["path", "--gate", "/nonexistent/baseline.json"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && message.contains("/nonexistent/baseline.json"),
        "{message}"
    );
}

#[test]
fn a_build_that_the_baseline_does_not_know_is_told_by_the_status_so_that_another_commit_is_measured() {
    let file = std::env::temp_dir().join(format!("millrace-baseline-{}.json", std::process::id()));
    std::fs::write(&file, r#"{"limits": {}, "counts": {"rustc 0.1.0, release": {}}}"#).unwrap();
    let output = bench(&["path", "--gate", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("make baseline"), "{message}");
}

#[test]
fn help_names_the_bench() {
    let output = bench(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && help.contains("path"), "{help}");
}
