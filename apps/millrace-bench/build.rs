//! Compiles the programs that benches run, `bpf/*.bpf.c`, with clang, and tells the bench what it was built by: instructions a
//! packet are compared with those of the same compiler and profile.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs, io};

/// Sources in `bpf`; each becomes an object of its name in `OUT_DIR`.
const PROGRAMS: &[&str] = &["cases", "chain"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=BPF_CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for name in PROGRAMS {
        let (source, object) = (format!("bpf/{name}.bpf.c"), format!("{name}.bpf.o"));
        if let Err(why) = compile(&source, &out.join(object)) {
            eprintln!("cannot compile the programs of millrace-bench: {why}");
            exit(1);
        }
    }
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc).arg("-V").output().ok();
    let version = version
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|text| text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .unwrap_or_else(|| "unknown compiler".to_owned());
    println!("cargo::rustc-env=MILLRACE_BENCH_RUSTC={version}");
    // target/PROFILE/build/millrace-bench-HASH/out: the variable PROFILE knows only debug and release.
    let profile = out.ancestors().nth(3).and_then(Path::file_name);
    let profile = profile.map_or("unknown profile".into(), |name| name.to_string_lossy());
    println!("cargo::rustc-env=MILLRACE_BENCH_PROFILE={profile}");
}

fn compile(source: &str, object: &Path) -> Result<(), String> {
    let wanted = env::var("BPF_CLANG").ok();
    let compilers = wanted
        .as_deref()
        .map_or(vec!["clang-19", "clang"], |clang| vec![clang]);
    for clang in compilers {
        let mut command = Command::new(clang);
        command.args([
            "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3",
        ]);
        // Debian keeps `asm/types.h` in a folder per architecture, which clang does not search for target bpf.
        let folders = fs::read_dir("/usr/include").into_iter().flatten().flatten();
        for folder in folders.map(|entry| entry.path()) {
            if folder.join("asm/types.h").exists() {
                command.arg("-I").arg(folder);
            }
        }
        match command.arg("-c").arg(source).arg("-o").arg(object).status() {
            Ok(status) if status.success() => return Ok(()),
            Ok(_) => return Err(format!("{clang} refused {source}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{clang}: {error}")),
        }
    }
    Err("neither clang-19 nor clang is installed: run `make deps`".into())
}
