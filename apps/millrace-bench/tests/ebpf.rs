//! `millrace-bench ebpf` as a user calls it: every case does what it should on every engine. Its numbers are not judged.

use std::process::Command;

use serde_json::Value;

fn rows(args: &[&str]) -> Result<Vec<Value>, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
        .args(["ebpf", "--json", "--millis", "5", "--cold-mib", "1"])
        .args(args)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bench"], "ebpf");
    Ok(report["rows"].as_array().unwrap().clone())
}

#[test]
fn every_case_runs_on_every_engine_of_this_build() {
    let rows = rows(&["--engine", "jit", "--engine", "interp"]).unwrap();
    for row in &rows {
        assert!(row["ns"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["batch_ns"].as_f64().unwrap() > 0.0, "{row}");
        let jit = row["engine"] == "jit";
        assert_eq!(row["compile_us"].is_null(), !jit, "{row}");
        assert_eq!(row["instructions"].is_null(), jit, "{row}");
    }
    let cold = rows.iter().filter(|row| !row["cold_batch_ns"].is_null());
    assert_eq!((rows.len(), cold.count()), (22, 6));
}

#[test]
fn the_kernel_is_compared_on_the_same_bytecode() {
    let test = "the_kernel_is_compared_on_the_same_bytecode";
    match rows(&["--engine", "kernel", "--engine", "jit"]) {
        Err(why) if why.contains("bpf(2)") => println!("SKIP {test}: {why}"),
        Err(why) => panic!("{why}"),
        Ok(rows) => {
            // The kernel gives programs no metadata in a test run.
            let (hints, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row["case"] == "hints");
            assert!(hints.len() == 1 && hints[0]["vs_kernel"].is_null(), "{hints:?}");
            assert_eq!(others.len(), 20);
            for row in others {
                let ratio = row["vs_kernel"].as_f64().unwrap();
                assert!(row["engine"] == "jit" || ratio == 1.0, "{row}");
            }
        }
    }
}
