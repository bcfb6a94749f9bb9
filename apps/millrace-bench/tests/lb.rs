//! The bench as a user calls it. Its numbers are not judged here, except that counting instructions must repeat.

use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
        .args(args)
        .output()
        .unwrap()
}

fn row(args: &[&str]) -> Result<serde_json::Value, String> {
    let output = bench(args);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bench"], "lb");
    assert_eq!(report["rows"].as_array().unwrap().len(), 1);
    Ok(report["rows"][0].clone())
}

#[test]
fn counted_instructions_repeat() {
    let count = || row(&["lb", "--json", "--case", "forward", "--millis", "1"]);
    let first = match count() {
        Ok(row) => row["instructions_per_packet"].as_f64().unwrap(),
        Err(why) if why.contains("instructions cannot be counted") => {
            println!("SKIP counted_instructions_repeat: {why}");
            return;
        }
        Err(why) => panic!("{why}"),
    };
    let second = count().unwrap()["instructions_per_packet"].as_f64().unwrap();
    assert!(
        first > 30.0,
        "a frame cannot be received and sent in {first} instructions"
    );
    assert!(
        (first - second).abs() < 0.02 * first,
        "{first} and then {second} instructions a packet"
    );
}

#[test]
fn a_row_has_the_agreed_names() {
    let row = row(&[
        "lb",
        "--json",
        "--case",
        "forward",
        "--millis",
        "1",
        "--no-instructions",
    ])
    .unwrap();
    assert_eq!(
        (&row["case"], &row["engine"]),
        (&"forward".into(), &"none".into())
    );
    assert!(row["pps"].as_u64().unwrap() > 0);
    assert!(row["cycles_per_packet"].as_f64().unwrap() > 0.0);
    assert!(row["instructions_per_packet"].is_null());
}

#[test]
fn an_engine_that_cannot_run_the_balancer_is_left_out_with_the_reason() {
    let output = bench(&[
        "lb",
        "--json",
        "--case",
        "tcp4-l2",
        "--millis",
        "1",
        "--no-instructions",
    ]);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let engines: Vec<_> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["engine"])
        .collect();
    assert!(engines.contains(&&"interp".into()), "{engines:?}");
    let notes = report["notes"].as_array().unwrap();
    for engine in ["jit", "rbpf"] {
        let told = notes.iter().any(|note| {
            note.as_str()
                .is_some_and(|note| note.starts_with(&format!("{engine} left out: ")))
        });
        assert_ne!(told, engines.contains(&&engine.into()), "{engine}: {report}");
    }
}

#[test]
fn unknown_cases_and_engines_are_told_which_there_are() {
    for (args, known) in [
        (["lb", "--case", "tcp5"], "tcp4-l2"),
        (["lb", "--engine", "warp"], "interp"),
    ] {
        let output = bench(&args);
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            message.contains(known) && message.lines().count() == 1,
            "{message}"
        );
    }
}
