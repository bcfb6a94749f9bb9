//! Compiles the C programs beside the tests and runs frames through them.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use millrace_ebpf::{EngineKind, Instance, Loaded, Loader, Map, Object, Verdict, XdpBuff};

/// The clang on this machine, if any.
pub fn clang() -> Option<&'static str> {
    ["clang-19", "clang"].into_iter().find(|c| {
        Command::new(c)
            .arg("--version")
            .output()
            .is_ok_and(|o| o.status.success())
    })
}

/// Compiles `tests/progs/NAME.bpf.c`; `None` (and a line saying so) without a compiler.
pub fn compile(test: &str, name: &str) -> Option<Vec<u8>> {
    compile_with(test, name, &["-mcpu=v3"])
}

/// The same with further compiler options.
pub fn compile_with(test: &str, name: &str, options: &[&str]) -> Option<Vec<u8>> {
    let Some(clang) = clang() else {
        println!("SKIP {test}: no clang to compile BPF programs with; run `make deps`");
        return None;
    };
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/progs/{name}.bpf.c"));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("prog.o");
    let result = Command::new(clang)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf"])
        .args([
            "-I",
            "/usr/include/x86_64-linux-gnu",
            "-I",
            "/usr/include/aarch64-linux-gnu",
            "-I",
            concat!(env!("CARGO_MANIFEST_DIR"), "/include"),
        ])
        .args(options)
        .arg("-c")
        .arg(&source)
        .arg("-o")
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
    Some(std::fs::read(&out).unwrap())
}

/// A loaded object with one engine instance of its only program.
pub struct Rig {
    pub loaded: Loaded,
    pub instance: Instance,
}

impl Rig {
    pub fn new(elf: &[u8]) -> Rig {
        Rig::of(elf, None)
    }

    pub fn of(elf: &[u8], program: Option<&str>) -> Rig {
        Rig::on(EngineKind::Interp, elf, program)
    }

    pub fn on(engine: EngineKind, elf: &[u8], program: Option<&str>) -> Rig {
        let object = Object::parse(elf).unwrap();
        let loaded = Loader::new().cpus(4).load(&object).unwrap();
        let instance = loaded.program(program).unwrap().instance(engine, 0).unwrap();
        Rig { loaded, instance }
    }

    /// A rig, with maps of its own, for each engine of this build.
    pub fn each(elf: &[u8], program: Option<&str>) -> impl Iterator<Item = Rig> {
        EngineKind::available()
            .into_iter()
            .map(move |engine| Rig::on(engine, elf, program))
    }

    pub fn map(&self, name: &str) -> &Arc<Map> {
        self.loaded.map(name).unwrap()
    }

    /// Runs one frame; gives the verdict and the frame as the program left it.
    pub fn run(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        run(&mut self.instance, frame)
    }
}

pub const HEADROOM: usize = 256;

/// Runs one frame with room on both sides.
pub fn run(instance: &mut Instance, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let (verdict, meta, frame) = run_meta(instance, frame);
    (verdict, frame[meta..].to_vec())
}

/// The same; the frame comes with the metadata before it, whose length is the second value.
pub fn run_meta(instance: &mut Instance, frame: &[u8]) -> (Verdict, usize, Vec<u8>) {
    let mut buffer = vec![0u8; HEADROOM + frame.len() + 512];
    buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    let (verdict, meta, start, len) = {
        let mut buf = XdpBuff::new(&mut buffer, HEADROOM, frame.len(), 0, &[]);
        let verdict = instance.run_one(&mut buf);
        (verdict, buf.meta_len(), buf.data_offset(), buf.len())
    };
    (verdict, meta, buffer[start - meta..start + len].to_vec())
}

/// An IPv4 UDP frame of 60 bytes.
pub fn udp_frame(dport: u16) -> Vec<u8> {
    let mut f = vec![0u8; 60];
    f[0..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    f[12..14].copy_from_slice(&[8, 0]);
    f[14] = 0x45;
    f[16..18].copy_from_slice(&46u16.to_be_bytes());
    f[22] = 64;
    f[23] = 17;
    f[26..30].copy_from_slice(&[10, 0, 0, 1]);
    f[30..34].copy_from_slice(&[10, 0, 0, 2]);
    f[34..36].copy_from_slice(&1234u16.to_be_bytes());
    f[36..38].copy_from_slice(&dport.to_be_bytes());
    f[38..40].copy_from_slice(&26u16.to_be_bytes());
    f
}
