//! The programs of this repository are accepted by the verifier, whatever instruction set they are compiled for.

mod common;

use common::clang;
use millrace_ebpf::{HintField, HintKind, HintLayout, HintSource, LoadError, Loader, Loc, NO_FLAGS, Object};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every `*.bpf.c` below a directory.
fn sources(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(below)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".bpf.c") && !name.starts_with("refused_") {
            found.push(path);
        }
    }
}

/// A queue that gives everything.
fn all_hints() -> HintLayout {
    let kinds = [
        HintKind::RxHash,
        HintKind::RxHashType,
        HintKind::RxTimestamp,
        HintKind::VlanTci,
        HintKind::VlanProto,
        HintKind::PacketType,
        HintKind::Mark,
        HintKind::CsumStatus,
        HintKind::HeaderLen,
        HintKind::Extracted,
    ];
    kinds.into_iter().fold(HintLayout::named("all"), |layout, kind| {
        layout.with(HintField {
            kind,
            loc: Some(Loc {
                offset: 0,
                width: 8,
                shift: 0,
                mask: u64::MAX,
            }),
            flags: NO_FLAGS,
            valid: None,
            table: None,
            source: HintSource::Hardware,
        })
    })
}

#[test]
fn every_program_of_the_repository_is_accepted() {
    let Some(clang) = clang() else {
        println!("SKIP every_program_of_the_repository_is_accepted: no clang; run `make deps`");
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = Vec::new();
    sources(&root, &mut all);
    assert!(all.len() >= 5, "{all:?}");
    let dir = tempfile::tempdir().unwrap();
    for source in &all {
        for cpu in ["v1", "v2", "v3", "v4"] {
            let out = dir.path().join("prog.o");
            let done = Command::new(clang)
                .args(["-O2", "-g", "-target", "bpf", &format!("-mcpu={cpu}")])
                .args([
                    "-I/usr/include/x86_64-linux-gnu",
                    "-I/usr/include/aarch64-linux-gnu",
                    "-c",
                    concat!("-I", env!("CARGO_MANIFEST_DIR"), "/include"),
                ])
                .arg(source)
                .arg("-o")
                .arg(&out)
                .output()
                .unwrap();
            if !done.status.success() {
                // Not everything can be compiled for the oldest instruction set.
                println!("{} -mcpu={cpu}: not compiled", source.display());
                assert!(
                    cpu == "v1" || cpu == "v2",
                    "{}",
                    String::from_utf8_lossy(&done.stderr)
                );
                continue;
            }
            let object = Object::parse(&std::fs::read(&out).unwrap()).unwrap();
            let loaded = match Loader::new().cpus(2).hints(&all_hints()).load(&object) {
                Ok(loaded) => loaded,
                Err(LoadError::Helper { name, .. }) => {
                    println!("{}: helper {name} is not here", source.display());
                    continue;
                }
                Err(error) => panic!("{}: {error}", source.display()),
            };
            for program in loaded.programs() {
                match program.verify() {
                    Ok(verified) => println!(
                        "{} -mcpu={cpu} {}: {} instructions, {} walked over, {} states, {} paths covered, {:?}",
                        source.file_name().unwrap_or_default().display(),
                        program.name(),
                        program.instructions(),
                        verified.stats.processed,
                        verified.stats.states,
                        verified.stats.pruned,
                        verified.stats.time
                    ),
                    Err(error) => panic!("{} -mcpu={cpu}: {error}", source.display()),
                }
            }
        }
    }
}
