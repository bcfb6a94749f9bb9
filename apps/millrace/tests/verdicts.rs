//! Frames go where programs say, and every count agrees with every other.

mod common;

use common::*;
use millrace::{
    App, AppError, EngineKind, PassAction, PortConfig, PortSpec, QueueSel, TxChooser, TxFrame, TxSteering,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// `rx_frames` is the sum of what was said about them.
fn assert_every_frame_has_one_verdict(stats: &millrace::AppStats) {
    let names = [
        "no_program",
        "xdp_aborted",
        "xdp_drop",
        "xdp_pass",
        "xdp_tx",
        "xdp_redirect",
    ];
    let said: u64 = names.iter().map(|name| stats.total(name)).sum();
    assert_eq!(stats.total("rx_frames"), said, "{stats:?}");
}

#[test]
fn xdp_drop_pass_and_tx_counts_equal_what_was_sent() {
    let Some(elf) = object("thirds") else {
        return skip("xdp_drop_pass_and_tx_counts_equal_what_was_sent", "needs clang");
    };
    const COUNT: u64 = 30_000;
    let app = builder(&format!("gen:udp4,flows=300,rate=30000,count={COUNT}"), 2)
        .build()
        .expect("app");
    let loaded = attach(&app, &elf, &[]);
    let running = app.start().expect("start");
    until("all frames", || {
        let stats = running.stats();
        stats.total("rx_frames") + missed(&stats) >= COUNT
    });
    let report = running.stop().expect("clean end");
    let stats = &report.stats;
    assert_eq!(stats.total("rx_frames") + missed(stats), COUNT);
    assert_every_frame_has_one_verdict(stats);
    let map = loaded.map("verdicts").expect("map");
    for (verdict, counter) in [
        (0u32, "xdp_aborted"),
        (1, "xdp_drop"),
        (2, "xdp_pass"),
        (3, "xdp_tx"),
    ] {
        let value = map.lookup(&verdict.to_ne_bytes()).expect("entry");
        let counted = u64::from_ne_bytes(value[..8].try_into().expect("u64"));
        assert_eq!(stats.total(counter), counted, "{counter}");
        assert_eq!(counted > 0, verdict != 0, "{counter}");
    }
    assert_eq!(
        stats.total("pass_nowhere"),
        stats.total("xdp_pass"),
        "there is neither tap nor callback"
    );
    assert_eq!(
        stats.total("tx_frames") + stats.total("tx_full"),
        stats.total("xdp_tx")
    );
    assert_eq!(stats.ports[0].device["tx_packets"], stats.total("tx_frames"));
    assert_eq!(report.buffers_missing, 0);
}

#[test]
fn frames_sent_by_xdp_tx_are_on_the_wire_once_each_and_unchanged() {
    let Some(elf) = object("verdict") else {
        return skip(
            "frames_sent_by_xdp_tx_are_on_the_wire_once_each_and_unchanged",
            "needs clang",
        );
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let mut frames: Vec<_> = (0..400u16).map(|i| udp(i as u8, i, &i.to_be_bytes())).collect();
    write_pcap(&input, &frames);
    let wire = format!("pcap:{},{}", input.display(), output.display());
    let app = builder(&wire, 1).build().expect("app");
    attach(&app, &elf, &[("verdict", 3)]);
    let running = app.start().expect("start");
    until("all frames sent", || {
        running.stats().ports[0].device["tx_packets"] == 400
    });
    let report = running.stop().expect("clean end");
    assert_eq!(report.stats.total("tx_frames"), 400);
    assert_eq!(report.buffers_missing, 0);
    let mut sent = read_pcap(&output);
    frames.sort();
    sent.sort();
    assert!(sent == frames, "{} frames on the wire", sent.len());
}

#[test]
fn two_workers_share_the_load_by_rss_and_a_flow_stays_on_one_queue() {
    let app = builder("gen:udp4,flows=1000,rate=40000,count=8000", 2)
        .build()
        .expect("app");
    let running = app.start().expect("start");
    until("all frames", || {
        let stats = running.stats();
        stats.total("rx_frames") + missed(&stats) >= 8000
    });
    let stats = running.stop().expect("clean end").stats;
    let queues = &stats.ports[0].queues;
    assert_eq!(queues.iter().map(|q| q.worker).collect::<Vec<_>>(), [0, 1]);
    let total = stats.total("rx_frames");
    for queue in queues {
        let share = queue.counter("rx_frames") * 100 / total;
        assert!((30..=70).contains(&share), "queue {} got {share} %", queue.queue);
    }
    assert_eq!(stats.total("no_program"), total);
    assert!(stats.workers.iter().all(|worker| worker.busy_rounds > 0));
}

#[test]
fn passed_frames_reach_the_callback_which_may_send_them_back() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = seen.clone();
    let app = builder("gen:udp4,flows=10,rate=20000,count=2000", 1)
        .on_pass(move |_| {
            let count = count.clone();
            Box::new(move |frame| {
                assert!(frame.len == 60 && frame.data.len() == 60 && frame.port == 0);
                match count.fetch_add(1, Ordering::Relaxed) % 2 {
                    0 => PassAction::Taken,
                    _ => PassAction::Transmit,
                }
            })
        })
        .build()
        .expect("app");
    let running = app.start().expect("start");
    until("all frames", || {
        let stats = running.stats();
        stats.total("rx_frames") + missed(&stats) >= 2000
    });
    let report = running.stop().expect("clean end");
    let total = report.stats.total("rx_frames");
    assert_eq!(seen.load(Ordering::Relaxed), total);
    assert_eq!(report.stats.total("pass_callback"), total);
    assert_eq!(report.stats.total("tx_frames"), total / 2);
    assert_eq!(report.buffers_missing, 0);
}

#[test]
fn a_redirect_to_another_port_leaves_there_and_one_to_nowhere_is_counted() {
    let Some(elf) = object("redirect") else {
        return skip(
            "a_redirect_to_another_port_leaves_there_and_one_to_nowhere_is_counted",
            "needs clang",
        );
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let frames: Vec<_> = (0..200u16).map(|i| udp(i as u8, i, b"redirected")).collect();
    write_pcap(&input, &frames);
    for (to, reached) in [(2, 200), (9, 0)] {
        let app = builder(&format!("pcap:{}", input.display()), 2)
            .port(port("eth1", &format!("pcap:,{}", output.display()), 1))
            .build()
            .expect("app");
        attach(&app, &elf, &[("to", to)]);
        let running = app.start().expect("start");
        until("all redirected", || running.stats().total("xdp_redirect") == 200);
        until("all handed over", || {
            let s = running.stats();
            s.total("redirect_unsupported") + s.total("tx_frames") == 200
        });
        let report = running.stop().expect("clean end");
        let stats = report.stats;
        assert_eq!(stats.total("redirect_port"), reached);
        assert_eq!(stats.total("redirect_unsupported"), 200 - reached);
        assert_eq!(stats.port("eth1").expect("eth1").device["tx_packets"], reached);
        assert_eq!(report.buffers_missing, 0);
        let mut sent = read_pcap(&output);
        sent.sort();
        let mut wanted = if reached > 0 { frames.clone() } else { Vec::new() };
        wanted.sort();
        assert!(sent == wanted, "{} frames on the other wire", sent.len());
    }
}

/// Sends everything to one queue, whatever that queue is.
struct Always(i32);

impl TxChooser for Always {
    fn choose(&mut self, _frame: TxFrame<'_>) -> Option<i32> {
        Some(self.0)
    }
}

#[test]
fn a_steering_program_sends_frames_out_of_the_queue_of_another_worker() {
    let Some(elf) = object("verdict") else {
        return skip(
            "a_steering_program_sends_frames_out_of_the_queue_of_another_worker",
            "needs clang",
        );
    };
    let app = builder("gen:udp4,flows=100,rate=20000,count=4000", 2)
        .build()
        .expect("app");
    attach(&app, &elf, &[("verdict", 3)]);
    for queue in [0, 1] {
        let mut steering = TxSteering::new(2).expect("two queues");
        // 3 is out of range: modulo 2 it is queue 1.
        steering.set_program(Some(Box::new(Always(3))));
        let old = app
            .set_steering("eth0", queue, steering)
            .expect("set")
            .expect("the old one comes back");
        assert_eq!(old.queues(), 2);
    }
    let running = app.start().expect("start");
    until("all frames", || {
        let stats = running.stats();
        stats.total("rx_frames") + missed(&stats) >= 4000
    });
    let report = running.stop().expect("clean end");
    let queues = &report.stats.ports[0].queues;
    assert_eq!(queues[0].counter("tx_frames"), 0, "all leave on queue 1");
    assert_eq!(queues[0].counter("tx_handover"), queues[0].counter("xdp_tx"));
    assert_eq!(
        report.stats.total("steer_out_of_range"),
        report.stats.total("xdp_tx")
    );
    assert_eq!(report.buffers_missing, 0);
}

#[test]
fn a_program_without_frags_is_refused_where_frames_can_need_several_buffers() {
    let Some(elf) = object("verdict") else {
        return skip(
            "a_program_without_frags_is_refused_where_frames_can_need_several_buffers",
            "needs clang",
        );
    };
    let config = PortConfig {
        mtu: 9000,
        ..PortConfig::default()
    };
    let spec = PortSpec::new("eth0", "model:ixgbe?wire=null").config(config);
    let app = App::builder().port(spec).pin(false).build().expect("app");
    let loaded = load(&app, &elf, &[]);
    let program = loaded.program(None).expect("program");
    let refused = app
        .attach("eth0", QueueSel::All, &program, EngineKind::Interp)
        .expect_err("jumbo");
    assert!(
        matches!(refused, AppError::NeedsFrags { mtu: 9000, .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("xdp.frags"));
}

#[test]
fn a_jumbo_frame_of_several_buffers_is_sent_back_whole() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let mut frames: Vec<_> = [1500usize, 1800, 2100, 4000, 8900]
        .iter()
        .map(|len| udp(1, 7, &(0..*len).map(|i| i as u8).collect::<Vec<u8>>()))
        .collect();
    write_pcap(&input, &frames);
    let mut spec = port(
        "eth0",
        &format!("pcap:{},{}", input.display(), output.display()),
        1,
    );
    spec.config.mtu = 9000;
    let app = App::builder()
        .port(spec)
        .pin(false)
        .on_pass(|_| Box::new(|_| PassAction::Transmit))
        .build();
    let running = app.expect("app").start().expect("start");
    until("all frames sent", || {
        running.stats().ports[0].device["tx_packets"] == 5
    });
    let report = running.stop().expect("clean end");
    assert!(report.stats.total("rx_multi_buffer") >= 3);
    assert_eq!(report.buffers_missing, 0);
    let mut sent = read_pcap(&output);
    frames.sort();
    sent.sort();
    assert!(
        sent == frames,
        "lengths {:?}",
        sent.iter().map(Vec::len).collect::<Vec<_>>()
    );
}
