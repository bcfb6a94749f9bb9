//! Programs marked `xdp.frags` reach the whole of a frame that takes several buffers, and move its tail.

mod common;

use common::*;
use millrace::{App, EngineKind, QueueSel};

/// What the program is to make of a frame whose UDP source port is this.
fn wanted(op: u16, mut frame: Vec<u8>) -> Vec<u8> {
    match op {
        1 => frame[1000..3000].fill(b'M'),
        2 => frame.truncate(frame.len() - 1000),
        3 => frame.resize(frame.len() + 16, 0),
        4 => frame.truncate(100),
        _ => {}
    }
    frame
}

#[test]
fn a_program_reads_writes_grows_and_shrinks_frames_of_several_buffers() {
    let name = "a_program_reads_writes_grows_and_shrinks_frames_of_several_buffers";
    let Some(elf) = object("frags") else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    // Of one buffer, and of several, in one batch.
    let frames: Vec<(u16, Vec<u8>)> = [
        (0, 60),
        (1, 4000),
        (2, 5000),
        (3, 6000),
        (4, 8900),
        (5, 7000),
        (0, 3500),
        (2, 2500),
    ]
    .into_iter()
    .map(|(op, len): (u16, usize)| {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        (op, udp(op as u8, op, &payload))
    })
    .collect();
    write_pcap(
        &input,
        &frames.iter().map(|(_, frame)| frame.clone()).collect::<Vec<_>>(),
    );
    let mut expected: Vec<_> = frames.into_iter().map(|(op, frame)| wanted(op, frame)).collect();
    expected.sort();
    for engine in EngineKind::available() {
        let mut spec = port(
            "eth0",
            &format!("pcap:{},{}", input.display(), output.display()),
            1,
        );
        spec.config.mtu = 9000;
        let app = App::builder().port(spec).pin(false).build().expect("app");
        let program = load(&app, &elf, &[]).program(None).expect("program");
        app.attach("eth0", QueueSel::All, &program, engine)
            .expect("attach");
        let running = app.start().expect("start");
        let all = expected.len() as u64;
        until("all frames judged", || {
            let stats = running.stats();
            stats.total("xdp_tx") + stats.total("xdp_drop") + stats.total("xdp_aborted") == all
        });
        until("what is sent is on the wire", || {
            let stats = running.stats();
            stats.ports[0].device["tx_packets"] == stats.total("xdp_tx")
        });
        let report = running.stop().expect("clean end");
        assert_eq!(report.stats.total("xdp_tx"), all, "{}", engine.name());
        assert!(report.stats.total("rx_multi_buffer") >= 6);
        assert_eq!(report.buffers_missing, 0, "buffers that were cut off went home");
        let mut sent = read_pcap(&output);
        sent.sort();
        let lengths = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&sent), lengths(&expected), "{}", engine.name());
        assert!(sent == expected, "{}", engine.name());
    }
}
