//! `millrace-bench wire` and `scale` as a user calls them. Rates and times are not judged.

use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
        .args(args)
        .output()
        .unwrap()
}

fn report(args: &[&str]) -> serde_json::Value {
    let output = bench(args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn error(args: &[&str]) -> String {
    let output = bench(args);
    assert!(!output.status.success(), "{args:?} was accepted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn two_models_are_measured_and_the_page_has_a_plot_of_their_delays() {
    let html = tempfile();
    let report = report(&[
        "wire",
        "--json",
        "--millis",
        "5",
        "--tries",
        "1",
        "--resolution",
        "25",
        "--size",
        "64",
        "--html",
        &html,
    ]);
    assert_eq!(report["bench"], "wire");
    let rows = report["rows"].as_array().unwrap();
    for test in ["throughput", "latency", "loss", "back_to_back", "model"] {
        let row = rows.iter().find(|row| row["test"] == test);
        let row = row.unwrap_or_else(|| panic!("no row of {test}"));
        assert_eq!(row["size"], 64);
        assert!(row["mpps"].is_f64(), "{row}");
    }
    let page = std::fs::read_to_string(&html).unwrap();
    std::fs::remove_file(&html).unwrap();
    assert!(page.contains("<svg") && page.contains("delay"), "{page}");
}

#[test]
fn ports_are_named_in_pairs_and_what_is_wrong_with_them_is_told() {
    assert!(error(&["wire", "vfio:0000:17:00.0"]).contains("PORT"));
    assert!(error(&["wire", "e1000", "e1000"]).contains("neither a PCI address"));
    assert!(error(&["wire", "--size", "63"]).contains("64"));
    assert!(error(&["wire", "--test", "jitter"]).contains("back_to_back"));
}

#[test]
fn one_and_two_workers_on_one_port_and_on_ports_of_their_own_are_rows() {
    let report = report(&[
        "scale",
        "--json",
        "--workers",
        "2",
        "--millis",
        "1",
        "--ring",
        "256",
    ]);
    assert_eq!(report["bench"], "scale");
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<_> = rows
        .iter()
        .map(|row| (row["sharing"].as_str().unwrap(), row["workers"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        names,
        [
            ("one_port", 1),
            ("one_port", 2),
            ("own_ports", 1),
            ("own_ports", 2)
        ]
    );
    for row in rows {
        assert!(row["mpps"].is_f64() && row["speedup"].is_f64(), "{row}");
    }
    assert_eq!(rows[0]["speedup"], 1.0);
}

#[test]
fn help_teaches_how_to_read_the_numbers() {
    for (bench_name, word) in [("wire", "RFC 2544"), ("scale", "own ports")] {
        let output = bench(&[bench_name, "--help"]);
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            help.contains("EXAMPLES") && help.contains("READING IT") && help.contains(word),
            "{help}"
        );
    }
}

fn tempfile() -> String {
    let name = format!("millrace-bench-wire-{}.html", std::process::id());
    std::env::temp_dir().join(name).to_string_lossy().into_owned()
}
