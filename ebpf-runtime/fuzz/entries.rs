//! What the fuzz targets call, and a slice of them in every test run: bytes in, nothing out, no panic.
// Each target uses a part of it.
#![allow(dead_code)]

use std::sync::Arc;

use millrace_ebpf::{
    EngineKind, Fault, HintField, HintKind, HintLayout, HintSource, Loader, Loc, Map, MapDef, MapFlags,
    MapType, NO_FLAGS, Object, Program, XdpBuff,
};

/// Instructions of a run: enough to go round, few enough to go on.
const BUDGET: u64 = 20_000;
/// Programs of an object that are run, and longest programs verified: a fuzzer should try more, not longer.
const PROGRAMS: usize = 4;
const INSTRUCTIONS: usize = 2_000;
/// Most bytes of a map that a fuzzer is let fill.
const MAP_BYTES: u64 = 1 << 20;

/// Metadata of the queue that objects are loaded for.
fn layout() -> HintLayout {
    let field = |kind, offset, width| HintField {
        kind,
        loc: Some(Loc {
            offset,
            width,
            shift: 0,
            mask: u64::MAX,
        }),
        flags: NO_FLAGS,
        valid: None,
        table: None,
        source: HintSource::Hardware,
    };
    HintLayout::named("fuzz")
        .with(field(HintKind::RxHash, 0, 4))
        .with(field(HintKind::VlanTci, 2, 2))
        .with(field(HintKind::RxTimestamp, 0, 8))
}

/// Runs a program on a few frames; `verified` ones must not fault.
fn run(program: &Arc<Program>, engine: EngineKind, verified: bool) {
    let instance = if verified {
        program.instance(engine, 1)
    } else {
        program.instance_unverified_on(engine, 1)
    };
    let Ok(mut instance) = instance else { return };
    instance.set_budget(BUDGET);
    instance.set_hints(&layout());
    instance.fix_environment(1, 1);
    let mut buffer = [0x45u8; 512];
    for len in [14, 60, 200] {
        let (head, rest) = buffer.split_at_mut(32);
        let (frame, tail) = rest.split_at_mut(448);
        let before = (head.to_vec(), tail.to_vec());
        let mut buf = XdpBuff::new(frame, 128, len, 0, &[1, 2, 3, 4]);
        let verdict = instance.run_one(&mut buf);
        assert!(buf.data_offset() + buf.len() <= 448, "the frame left its buffer");
        assert_eq!(
            before,
            (head.to_vec(), tail.to_vec()),
            "bytes beside the buffer changed"
        );
        let ended = matches!(verdict.fault, Fault::None | Fault::Budget);
        assert!(
            !verified || ended,
            "a verified program faults: {:?}",
            instance.last_fault()
        );
    }
}

fn verify_and_run(program: &Arc<Program>) {
    if program.instructions() > INSTRUCTIONS {
        return;
    }
    let verified = program.verify().is_ok();
    for engine in EngineKind::available() {
        run(program, engine, verified);
    }
}

fn load(bytes: &[u8]) {
    let Ok(object) = Object::parse(bytes) else { return };
    // Definitions of gigantic maps are legal; making them is the kernel's memory, not our code.
    let size = |m: &MapDef| {
        let entry = u64::from(m.value_size.max(1)) + u64::from(m.key_size);
        entry.saturating_mul(m.max_entries.into())
    };
    let total = object.maps().iter().map(size).fold(0, u64::saturating_add);
    if total > 64 * MAP_BYTES {
        return;
    }
    let Ok(loaded) = Loader::new().cpus(2).hints(&layout()).load(&object) else {
        return;
    };
    loaded.programs().iter().take(PROGRAMS).for_each(verify_and_run);
}

/// An object file.
pub fn elf(data: &[u8]) {
    load(data);
}

/// `.BTF` and `.BTF.ext` of an object with one program and room for maps: the first two bytes say where one ends.
pub fn btf(data: &[u8]) {
    let Some((split, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let at = usize::from(u16::from_le_bytes(*split)).min(rest.len());
    let (types, ext) = rest.split_at(at);
    load(&object_with(types, ext, &[]));
}

/// A map by its definition, and operations on it.
pub fn maps(data: &[u8]) {
    let mut bytes = data.iter().copied();
    let mut byte = || bytes.next().unwrap_or(0);
    let mut word = || u32::from_le_bytes([byte(), byte(), byte(), byte()]);
    let Some(kind) = MapType::from_raw(word() % 34) else {
        return;
    };
    let def = MapDef {
        name: "fuzz".into(),
        kind,
        key_size: word(),
        value_size: word(),
        max_entries: word(),
        flags: word(),
    };
    let entry = u64::from(def.key_size) + u64::from(def.value_size);
    if entry.saturating_mul(def.max_entries.into()) > MAP_BYTES {
        // Whether such a map can be made is worth a try, filling it is not.
        let _ = Map::new(&def, 2);
        return;
    }
    let Ok(map) = Map::new(&def, 2) else { return };
    let map = Arc::new(map);
    let mut operations = 0;
    let mut rest = data.get(20..).unwrap_or_default();
    while let Some((&operation, more)) = rest.split_first() {
        operations += 1;
        if operations > 256 {
            return;
        }
        let take = |len: u32| {
            let len = (len as usize).min(more.len());
            more[..len].to_vec()
        };
        let mut key = take(def.key_size);
        // Mostly keys of the right length, sometimes not.
        if operation & 0x80 == 0 {
            key.resize(def.key_size as usize, operation);
        }
        let mut value = take(def.value_size);
        if operation & 0x40 == 0 {
            value.resize(def.value_size as usize, operation);
        }
        let flags = MapFlags::from_raw(u64::from(operation >> 3 & 7)).unwrap_or_default();
        match operation & 7 {
            0 | 1 => _ = map.update(&key, &value, flags),
            2 => _ = map.lookup(&key),
            3 => _ = map.delete(&key),
            4 => _ = map.next_key(Some(&key)),
            5 => _ = map.update_percpu(&key, &[value.clone(), value], flags),
            6 => assert!(
                map.iter().take(1 << 16).count() < 1 << 16,
                "iteration does not end"
            ),
            _ => {
                _ = map.lookup_percpu(&key);
                _ = map.consume(16, |_| {});
                _ = map.freeze();
            }
        }
        let step = usize::from(operation % 5) + 1;
        rest = more.get(step.min(more.len())..).unwrap_or_default();
    }
    assert!(map.len() <= def.max_entries.max(1));
}

/// Instructions over a few maps.
pub fn programs(data: &[u8]) {
    let def = |name: &str, kind, key_size, max_entries| MapDef {
        name: name.into(),
        kind,
        key_size,
        value_size: if kind == MapType::Ringbuf { 0 } else { 16 },
        max_entries,
        flags: 0,
    };
    let made: Vec<Arc<Map>> = [
        def("array", MapType::Array, 4, 4),
        def("hash", MapType::Hash, 8, 4),
        def("ring", MapType::Ringbuf, 0, 4096),
    ]
    .iter()
    .filter_map(|d| Map::new(d, 2).ok().map(Arc::new))
    .collect();
    let len = data.len().min(INSTRUCTIONS * 8) / 8 * 8;
    let Ok(program) = Program::from_bytecode("fuzz", &data[..len], &made, 2) else {
        return;
    };
    verify_and_run(&program);
}

/// Name, type, flags, contents, link, entry size.
type Section<'a> = (&'a [u8], u32, u64, &'a [u8], u32, u64);

/// An ELF object with the program `r0 = 2; exit`, a map variable without a definition, BTF, and sections of so many zeroes.
pub fn object_with(btf: &[u8], ext: &[u8], zeroed: &[u64]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0xdp\0.maps\0.BTF\0.BTF.ext\0.symtab\0.strtab\0pass\0m\0.bss\0";
    let name = |wanted: &[u8]| {
        let at = NAMES
            .windows(wanted.len() + 1)
            .position(|w| w.ends_with(&[0]) && w.starts_with(wanted));
        at.unwrap_or(0) as u32
    };
    let code = [0xb7u8, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let symbol = |at: u32, info: u8, section: u16, size: u64| {
        [
            &at.to_le_bytes()[..],
            &[info, 0],
            &section.to_le_bytes(),
            &[0; 8],
            &size.to_le_bytes(),
        ]
        .concat()
    };
    let symbols = [
        vec![0; 24],
        symbol(name(b"pass"), 0x12, 1, 16),
        symbol(name(b"m"), 0x11, 2, 32),
    ]
    .concat();
    let sections: [Section<'_>; 7] = [
        (b"", 0, 0, &[], 0, 0),
        (b"xdp", 1, 6, &code, 0, 0),
        (b".maps", 1, 3, &[0; 32], 0, 0),
        (b".BTF", 1, 0, btf, 0, 0),
        (b".BTF.ext", 1, 0, ext, 0, 0),
        (b".symtab", 2, 0, &symbols, 6, 24),
        (b".strtab", 3, 0, NAMES, 0, 0),
    ];
    let mut out = vec![0u8; 64];
    let mut headers = Vec::new();
    for (title, kind, flags, contents, link, entry) in sections {
        out.resize(out.len().next_multiple_of(8), 0);
        let at = out.len() as u64;
        out.extend_from_slice(contents);
        headers.extend_from_slice(&name(title).to_le_bytes());
        headers.extend_from_slice(&kind.to_le_bytes());
        let info = u32::from(kind == 2);
        for wide in [flags, 0, at, contents.len() as u64] {
            headers.extend_from_slice(&wide.to_le_bytes());
        }
        headers.extend_from_slice(&link.to_le_bytes());
        headers.extend_from_slice(&info.to_le_bytes());
        for wide in [8, entry] {
            headers.extend_from_slice(&u64::to_le_bytes(wide));
        }
    }
    for size in zeroed {
        headers.extend_from_slice(&name(b".bss").to_le_bytes());
        headers.extend_from_slice(&8u32.to_le_bytes());
        for wide in [3, 0, 0, *size] {
            headers.extend_from_slice(&wide.to_le_bytes());
        }
        headers.extend_from_slice(&[0; 8]);
        for wide in [8u64, 0] {
            headers.extend_from_slice(&wide.to_le_bytes());
        }
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let at = out.len() as u64;
    out.extend_from_slice(&headers);
    let head = [
        0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 247, 0, 1, 0, 0, 0,
    ];
    out[..24].copy_from_slice(&head);
    out[40..48].copy_from_slice(&at.to_le_bytes());
    let count = 7 + zeroed.len() as u16;
    for (place, value) in [(52, 64u16), (58, 64), (60, count), (62, 6)] {
        out[place..place + 2].copy_from_slice(&value.to_le_bytes());
    }
    out
}
