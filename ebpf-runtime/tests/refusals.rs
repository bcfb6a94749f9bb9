//! Programs that must not be accepted, each refused with a message that names the instruction, the register's state and
//! what would satisfy the verifier.

use std::sync::Arc;

use millrace_ebpf::{LoadError, Map, MapDef, MapType, Program};

type Slot = [u8; 8];

fn i(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Slot {
    let (o, m) = (off.to_le_bytes(), imm.to_le_bytes());
    [code, dst | src << 4, o[0], o[1], m[0], m[1], m[2], m[3]]
}

const EXIT: Slot = [0x95, 0, 0, 0, 0, 0, 0, 0];

fn maps() -> Vec<Arc<Map>> {
    let make = |name: &str, kind, key_size, value_size, max_entries| {
        let def = MapDef {
            name: name.into(),
            kind,
            key_size,
            value_size,
            max_entries,
            flags: 0,
        };
        Arc::new(Map::new(&def, 1).unwrap())
    };
    vec![
        make("flows", MapType::Array, 4, 64, 4),
        make("events", MapType::Ringbuf, 0, 0, 4096),
        make("jumps", MapType::ProgArray, 4, 4, 4),
        make("data", MapType::Array, 4, 16, 1),
    ]
}

/// The message about a program.
fn refusal(code: &[Slot]) -> String {
    let program = Program::from_bytecode("bad", &code.concat(), &maps(), 1).unwrap();
    match program.verify() {
        Err(LoadError::Refused(refusal)) => refusal.to_string(),
        other => panic!("{other:?}"),
    }
}

/// r6 = context, r7 = data, r8 = data_end; `need` bytes are proven.
fn with_packet(need: i32, rest: &[Slot]) -> Vec<Slot> {
    let mut code = vec![
        i(0xbf, 6, 1, 0, 0),
        i(0x61, 7, 6, 0, 0),
        i(0x61, 8, 6, 4, 0),
        i(0xbf, 2, 7, 0, 0),
        i(0x07, 2, 0, 0, need),
        i(0xbd, 2, 8, 2, 0),
        i(0xb7, 0, 0, 0, 1),
        EXIT,
    ];
    code.extend_from_slice(rest);
    code
}

/// r0 = a value of `flows`, or null.
fn lookup() -> Vec<Slot> {
    vec![
        i(0x62, 10, 0, -4, 1),
        i(0xbf, 2, 10, 0, 0),
        i(0x07, 2, 0, 0, -4),
        i(0x18, 1, 5, 0, 0),
        [0; 8],
        i(0x85, 0, 0, 0, 1),
    ]
}

/// r0 = a record of 16 bytes, or null.
fn reserve() -> Vec<Slot> {
    vec![
        i(0x18, 1, 5, 0, 1),
        [0; 8],
        i(0xb7, 2, 0, 0, 16),
        i(0xb7, 3, 0, 0, 0),
        i(0x85, 0, 0, 0, 131),
    ]
}

#[test]
fn each_message_says_what_would_satisfy_it() {
    let cases: Vec<(&str, Vec<Slot>, &str)> = vec![
        (
            "a packet read that no comparison covers",
            with_packet(14, &[i(0x61, 0, 7, 12, 0), EXIT]),
            "program `bad`, instruction 8: reads 4 bytes at offset 12 of the packet, of which only 14 bytes are proven to \
             be there [r7 = pkt (14 bytes proven)]; compare the pointer plus 16 with data_end before, on every path to \
             here, and leave when it is greater",
        ),
        (
            "a value that may be null",
            [lookup(), vec![i(0x79, 0, 0, 0, 0), EXIT]].concat(),
            "program `bad`, instruction 6: r0 may be null: a pointer to a map value [r0 = map_value_or_null(0)]; compare \
             r0 with 0 before, and go on only where it is not",
        ),
        (
            "a read past the value",
            [
                lookup(),
                vec![
                    i(0x15, 0, 0, 1, 0),
                    i(0x79, 0, 0, 60, 0),
                    i(0xb7, 0, 0, 0, 0),
                    EXIT,
                ],
            ]
            .concat(),
            "program `bad`, instruction 7: reads 8 bytes at offset 60 of a map value of 64 bytes [r0 = map_value(0)]; \
             stay below 64",
        ),
        (
            "a pointer in a map",
            [
                lookup(),
                vec![
                    i(0x15, 0, 0, 1, 0),
                    i(0x7b, 0, 10, 0, 0),
                    i(0xb7, 0, 0, 0, 0),
                    EXIT,
                ],
            ]
            .concat(),
            "program `bad`, instruction 7: writes r10, a pointer to the stack, to where others could read the address [r0 \
             = map_value(0); r10 = fp]; pointers may only be stored on the stack",
        ),
        (
            "a pointer in the packet",
            with_packet(14, &[i(0x7b, 7, 8, 0, 0), i(0xb7, 0, 0, 0, 0), EXIT]),
            "program `bad`, instruction 8: writes r8, data_end, to where others could read the address [r7 = pkt (14 bytes \
             proven); r8 = pkt_end]; pointers may only be stored on the stack",
        ),
        (
            "a pointer as the result",
            vec![i(0xbf, 0, 10, 0, 0), EXIT],
            "program `bad`, instruction 1: returns a pointer to the stack [r0 = fp]; return one of XDP_ABORTED, XDP_DROP, \
             XDP_PASS, XDP_TX, XDP_REDIRECT",
        ),
        (
            "no result",
            vec![EXIT],
            "program `bad`, instruction 0: ends without a result [r0 = ?]; set r0, the program's return value, on every path",
        ),
        (
            "a write below the frame",
            vec![i(0x7a, 10, 0, -520, 0), i(0xb7, 0, 0, 0, 0), EXIT],
            "program `bad`, instruction 0: writes 8 bytes at -520 to -520 from the frame pointer, outside the frame of 512 \
             bytes [r10 = fp]; stay within -512 to 0; bound a variable index before it is used",
        ),
        (
            "a context field that does not exist",
            vec![i(0x61, 0, 1, 24, 0), EXIT],
            "program `bad`, instruction 0: reads 4 bytes at offset 24 of the context, which is no field [r1 = ctx]; read \
             the 32-bit fields of struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index",
        ),
        (
            "an index that is not bounded",
            [
                lookup(),
                vec![
                    i(0x15, 0, 0, 3, 0),
                    i(0x79, 1, 0, 0, 0),
                    i(0x0f, 0, 1, 0, 0),
                    i(0x71, 0, 0, 0, 0),
                    i(0xb7, 0, 0, 0, 0),
                    EXIT,
                ],
            ]
            .concat(),
            "program `bad`, instruction 8: moves a pointer to a map value by r1, whose range is unknown or too wide [r0 = \
             map_value(0); r1 = any number]; bound r1 first, with a comparison or a mask (`x &= 0xff`), to less than \
             536870912",
        ),
        (
            "a loop that never ends",
            vec![i(0xb7, 0, 0, 0, 0), i(0x05, 0, 0, -1, 0)],
            "program `bad`, instruction 1: the loop never ends: it comes back here with everything as it was; let each \
             turn change what ends the loop, and bound it by a constant",
        ),
        (
            "a record that is not given back",
            [reserve(), vec![i(0xb7, 0, 0, 0, 0), EXIT]].concat(),
            "program `bad`, instruction 6: ends without giving back the record that instruction 4 reserved [r0 = 0]; call \
             bpf_ringbuf_submit or bpf_ringbuf_discard on every path",
        ),
        (
            "a packet pointer from before the packet moved",
            with_packet(
                14,
                &[
                    i(0xbf, 1, 6, 0, 0),
                    i(0xb7, 2, 0, 0, 4),
                    i(0x85, 0, 0, 0, 44),
                    i(0x71, 0, 7, 0, 0),
                    EXIT,
                ],
            ),
            "program `bad`, instruction 11: r7 is a packet pointer from before a helper moved the packet [r7 = pkt_stale]; \
             load data and data_end again after bpf_xdp_adjust_head, _meta, _tail and bpf_tail_call, and compare again",
        ),
        (
            "an argument of the wrong kind",
            vec![
                i(0xbf, 2, 10, 0, 0),
                i(0xb7, 1, 0, 0, 0),
                i(0x85, 0, 0, 0, 1),
                EXIT,
            ],
            "program `bad`, instruction 2: argument 1 of bpf_map_lookup_elem is a number [r1 = 0; r2 = fp]; pass a map",
        ),
        (
            "a map of the wrong type",
            vec![
                i(0x62, 10, 0, -4, 1),
                i(0xbf, 2, 10, 0, 0),
                i(0x07, 2, 0, 0, -4),
                i(0x18, 1, 5, 0, 2),
                [0; 8],
                i(0x85, 0, 0, 0, 3),
                EXIT,
            ],
            "program `bad`, instruction 5: bpf_map_delete_elem does not work on map `jumps` of type prog_array [r1 = \
             map_ptr(2); r2 = fp-4]; pass a map of type hash, array, percpu_hash, percpu_array, lru_hash, \
             lru_percpu_hash, lpm_trie",
        ),
        (
            "arithmetic on the context",
            vec![i(0x27, 1, 0, 0, 2), i(0xb7, 0, 0, 0, 0), EXIT],
            "program `bad`, instruction 0: arithmetic that makes no sense on r1, the context [r1 = ctx]; add numbers to \
             pointers or subtract them, in 64 bits; nothing else",
        ),
        (
            "a pointer moved by the most negative number",
            vec![
                i(0x18, 1, 0, 0, 0),
                i(0, 0, 0, 0, i32::MIN),
                i(0xbf, 2, 10, 0, 0),
                i(0x0f, 2, 1, 0, 0),
                i(0x7a, 2, 0, -8, 0),
                i(0xb7, 0, 0, 0, 0),
                EXIT,
            ],
            "program `bad`, instruction 3: moves r2, a pointer to the stack, out of any bounds [r2 = fp; r1 = \
             0x8000000000000000]; keep offsets below 536870912",
        ),
        (
            "an address outside global data",
            vec![i(0x18, 1, 6, 0, 3), i(0, 0, 0, 0, -1), i(0x71, 0, 1, 1, 0), EXIT],
            "program `bad`, instruction 0: takes the address at 4294967295 in map `data`, whose value has 16 bytes; stay \
             within the value",
        ),
        (
            "half of a saved pointer",
            vec![i(0x7b, 10, 1, -8, 0), i(0x61, 0, 10, -8, 0), EXIT],
            "program `bad`, instruction 1: reads 4 bytes of a pointer that was saved at -8 on the stack [r10 = fp]; read \
             all 8 bytes",
        ),
        (
            "a register that a call ended",
            vec![i(0x85, 0, 0, 0, 7), i(0xbf, 0, 1, 0, 0), EXIT],
            "program `bad`, instruction 1: r1 is read, but was never set, or is no longer valid [r1 = ?]; set r1 on every \
             path to here; calls end r0 to r5, and helpers that move the packet end all packet pointers",
        ),
        (
            "an atomic operation that is not aligned",
            vec![
                i(0x7a, 10, 0, -8, 0),
                i(0x7a, 10, 0, -16, 0),
                i(0xb7, 1, 0, 0, 1),
                i(0xdb, 10, 1, -12, 0),
                i(0xb7, 0, 0, 0, 0),
                EXIT,
            ],
            "program `bad`, instruction 3: an atomic operation on 8 bytes that may not be aligned [r10 = fp; r1 = 1]; keep \
             the address a multiple of 8",
        ),
        (
            "an atomic operation on the packet",
            with_packet(
                16,
                &[
                    i(0xb7, 1, 0, 0, 1),
                    i(0xdb, 7, 1, 0, 0),
                    i(0xb7, 0, 0, 0, 0),
                    EXIT,
                ],
            ),
            "program `bad`, instruction 9: an atomic operation on r7, a packet pointer [r7 = pkt (16 bytes proven); r1 = \
             1]; atomic operations work on map values, ring-buffer records and the stack",
        ),
    ];
    let mut wrong = Vec::new();
    for (what, code, message) in &cases {
        let got = refusal(code);
        if got != *message {
            wrong.push(format!("{what}:\n  expected {message}\n  got      {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_number_whose_lower_half_is_zero_has_no_bit_set_there() {
    // r7 = 1 << 32; where the jump on r7's own bits is not taken, r9 is read, which nobody has set.
    let program = |jump: u8| {
        vec![
            i(0x18, 7, 0, 0, 0),
            i(0, 0, 0, 0, 1),
            i(0xb7, 0, 0, 0, 2),
            i(jump, 7, 7, 1, 0),
            i(0xbf, 0, 9, 0, 0),
            EXIT,
        ]
    };
    assert!(refusal(&program(0x4e)).contains("r9 is read"));
    let whole = Program::from_bytecode("whole", &program(0x4d).concat(), &maps(), 1).unwrap();
    assert!(
        whole.verify().is_ok(),
        "all 64 bits are not zero: the jump is always taken"
    );
}
