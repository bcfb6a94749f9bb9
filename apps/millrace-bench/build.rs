//! Tells the program what it was built by: instructions a packet are compared with those of the same compiler and profile.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc).arg("-V").output().ok();
    let version = version
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|text| text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .unwrap_or_else(|| "unknown compiler".to_owned());
    println!("cargo::rustc-env=MILLRACE_BENCH_RUSTC={version}");
    // target/PROFILE/build/millrace-bench-HASH/out: the variable PROFILE knows only debug and release.
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let profile = Path::new(&out).ancestors().nth(3).and_then(Path::file_name);
    let profile = profile.map_or("unknown profile".into(), |name| name.to_string_lossy());
    println!("cargo::rustc-env=MILLRACE_BENCH_PROFILE={profile}");
}
