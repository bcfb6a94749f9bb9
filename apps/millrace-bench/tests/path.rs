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

#[test]
fn each_burst_is_a_row_with_the_agreed_names() {
    let rows = rows(&["path", "--json", "--millis", "1", "--no-instructions"]).unwrap();
    let bursts: Vec<_> = rows.iter().map(|row| row["burst"].as_u64().unwrap()).collect();
    assert_eq!(bursts, [64, 32, 8, 1]);
    for row in &rows {
        for (key, value) in [
            ("family", "ixgbe"),
            ("scenario", "forward"),
            ("state", "warm"),
            ("metadata", "plain"),
            ("path", "scalar"),
        ] {
            assert_eq!(row[key], value, "{key}");
        }
        assert_eq!(row["ring"], 1024);
        assert!(row["cycles_per_packet"].is_f64(), "{row}");
        assert!(row["instructions_per_packet"].is_null());
    }
}

#[test]
fn instructions_of_the_path_repeat_and_a_larger_burst_takes_fewer() {
    let count = || -> Result<(f64, f64), String> {
        let args = ["path", "--json", "--millis", "1", "--burst", "64", "--burst", "1"];
        let rows = rows(&args)?;
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
fn a_burst_that_no_poll_brings_is_refused() {
    for burst in ["0", "65", "many"] {
        let output = bench(&["path", "--burst", burst]);
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("--burst"), "{message}");
    }
}

#[test]
fn help_names_the_bench() {
    let output = bench(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && help.contains("path"), "{help}");
}
