//! Compiles the data plane, `bpf/l4lb.bpf.c`, with clang into `OUT_DIR/l4lb.bpf.o`.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs, io};

const COMPILERS: [&str; 2] = ["clang-19", "clang"];

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=BPF_CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("l4lb.bpf.o");
    if let Err(why) = compile(Path::new("bpf/l4lb.bpf.c"), &out) {
        eprintln!("cannot compile the XDP program of millrace-l4lb: {why}");
        exit(1);
    }
}

fn compile(source: &Path, out: &Path) -> Result<(), String> {
    if !Path::new("/usr/include/bpf/bpf_helpers.h").exists() {
        return Err("bpf/bpf_helpers.h is missing (package libbpf-dev): run `make deps`".into());
    }
    let wanted = env::var("BPF_CLANG").ok();
    let compilers: Vec<&str> = match &wanted {
        Some(clang) => vec![clang],
        None => COMPILERS.to_vec(),
    };
    for clang in compilers {
        let mut command = Command::new(clang);
        command.args([
            "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3",
        ]);
        for include in asm_includes() {
            command.arg("-I").arg(include);
        }
        match command.arg("-c").arg(source).arg("-o").arg(out).status() {
            Ok(status) if status.success() => return Ok(()),
            Ok(_) => return Err(format!("{clang} refused {}", source.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{clang}: {error}")),
        }
    }
    Err("neither clang-19 nor clang is installed: run `make deps`".into())
}

/// Debian keeps `asm/types.h` in a folder per architecture, which clang does not search for target bpf.
fn asm_includes() -> Vec<PathBuf> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let Ok(entries) = fs::read_dir("/usr/include") else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&arch))
        })
        .filter(|path| path.join("asm/types.h").exists())
        .collect()
}
