//! Programs and queues come and go under traffic, things die, and all buffers come home.

mod common;

use common::*;
use millrace::{App, AppError, EngineKind, IdlePolicy, PassAction, PortConfig, PortSpec, QueueSel, Running};
use millrace_nic_models::device::registry::ModelSpec;
use millrace_nic_models::vfio_user::server::{Options, Server};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn rx(running: &Running, queue: usize) -> u64 {
    running.stats().ports[0].queues[queue].counter("rx_frames")
}

#[test]
fn a_program_replaced_1000_times_under_traffic_loses_no_packet() {
    let Some(elf) = object("verdict") else {
        return skip(
            "a_program_replaced_1000_times_under_traffic_loses_no_packet",
            "needs clang",
        );
    };
    const COUNT: u64 = 60_000;
    let wire = format!("gen:udp4,flows=100,rate=40000,count={COUNT}");
    let app = builder(&wire, 2).build().expect("app");
    let first = attach(&app, &elf, &[("verdict", 1)]);
    let second = load(&app, &elf, &[("verdict", 1)]);
    let programs = [&first, &second].map(|loaded| loaded.program(None).expect("program"));
    let running = app.start().expect("start");
    until("traffic", || running.stats().total("rx_frames") > 0);
    for i in 0..1000 {
        running
            .replace("eth0", QueueSel::All, &programs[(i + 1) % 2], EngineKind::Interp)
            .expect("replace");
    }
    until("all frames", || {
        let stats = running.stats();
        stats.total("rx_frames") + missed(&stats) >= COUNT
    });
    let report = running.stop().expect("clean end");
    let stats = &report.stats;
    let seen = [&first, &second].map(|loaded| sum(loaded.map("seen").expect("map")));
    assert!(seen[0] > 0 && seen[1] > 0, "both ran: {seen:?}");
    assert_eq!(
        seen[0] + seen[1],
        stats.total("rx_frames"),
        "each frame met exactly one program"
    );
    assert_eq!(stats.total("no_program"), 0, "there was always one");
    assert_eq!(stats.total("rx_frames") + missed(stats), COUNT);
    assert_eq!(stats.total("program_swaps"), 2 * 1001);
    assert_eq!(report.buffers_missing, 0);
}

#[test]
fn attach_detach_and_attach_again_under_traffic() {
    let Some(elf) = object("verdict") else {
        return skip("attach_detach_and_attach_again_under_traffic", "needs clang");
    };
    let app = builder("gen:udp4,flows=100,rate=20000", 2).build().expect("app");
    let program = load(&app, &elf, &[]).program(None).expect("program");
    let running = app.start().expect("start");
    let refused = running
        .detach("eth0", QueueSel::All)
        .expect_err("nothing attached");
    assert!(matches!(refused, AppError::NotAttached { .. }), "{refused}");
    for _ in 0..3 {
        running
            .attach("eth0", QueueSel::N(1), &program, EngineKind::Interp)
            .expect("attach");
        let twice = running.attach("eth0", QueueSel::All, &program, EngineKind::Interp);
        assert!(matches!(twice, Err(AppError::Attached { queue: 1, .. })));
        assert_eq!(running.attached().len(), 1, "all or nothing");
        let before = running.stats().ports[0].queues[1].counter("xdp_drop");
        until("drops on queue 1", || {
            running.stats().ports[0].queues[1].counter("xdp_drop") > before
        });
        running.detach("eth0", QueueSel::N(1)).expect("detach");
        let drops = running.stats().ports[0].queues[1].counter("xdp_drop");
        let passed = running.stats().ports[0].queues[1].counter("no_program");
        until("passes on queue 1", || {
            running.stats().ports[0].queues[1].counter("no_program") > passed
        });
        assert_eq!(running.stats().ports[0].queues[1].counter("xdp_drop"), drops);
    }
    assert_eq!(running.stop().expect("clean end").buffers_missing, 0);
}

#[test]
fn a_queue_is_stopped_and_started_under_traffic_while_the_other_runs() {
    let app = builder("gen:udp4,flows=200,rate=20000", 2).build().expect("app");
    let running = app.start().expect("start");
    until("both queues", || rx(&running, 0) > 0 && rx(&running, 1) > 0);
    for round in 0..20 {
        running.stop_queue("eth0", 1).expect("stop");
        let twice = running.stop_queue("eth0", 1).expect_err("stopped already");
        assert!(
            matches!(twice, AppError::QueueState { state: "stopped", .. }),
            "{twice}"
        );
        let (other, stopped) = (rx(&running, 0), rx(&running, 1));
        until("queue 0 runs on", || rx(&running, 0) > other);
        assert_eq!(rx(&running, 1), stopped, "round {round}");
        running.start_queue("eth0", 1).expect("start");
        until("queue 1 runs again", || rx(&running, 1) > stopped);
    }
    assert_eq!(running.stop().expect("clean end").buffers_missing, 0);
}

#[test]
fn a_worker_that_sleeps_on_the_interrupt_misses_no_frame() {
    // A lost interrupt would cost ten seconds.
    let idle = IdlePolicy {
        spins: 4,
        yields: 2,
        longest_wait: Duration::from_secs(10),
        ..IdlePolicy::default()
    };
    let mut spec = port("eth0", "gen:udp4,flows=20,rate=500,count=600", 2);
    spec.config.interrupts = true;
    let app = App::builder()
        .port(spec)
        .pin(false)
        .idle(idle)
        .build()
        .expect("app");
    let start = Instant::now();
    let running = app.start().expect("start");
    until("all frames", || running.stats().total("rx_frames") == 600);
    let took = start.elapsed();
    let report = running.stop().expect("clean end");
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(
        report.stats.workers.iter().all(|worker| worker.sleeps > 5),
        "{:?}",
        report.stats.workers
    );
    assert_eq!(report.buffers_missing, 0);
}

#[test]
fn a_worker_that_panics_ends_the_application_with_its_words() {
    let app = builder("gen:udp4,flows=10,rate=1000", 1)
        .on_pass(|_| Box::new(|_| -> PassAction { panic!("no such luck") }))
        .build()
        .expect("app");
    let error = app.start().expect("start").wait().expect_err("the worker died");
    assert!(
        matches!(&error, AppError::WorkerPanicked { worker: 0, message } if message == "no such luck"),
        "{error}"
    );
}

#[test]
fn a_model_that_dies_mid_run_takes_the_port_down_with_a_clear_error() {
    let dir = tempfile::tempdir().expect("tempdir");
    let socket = dir.path().join("nic.sock");
    let stop = Arc::new(AtomicBool::new(false));
    let (server, stopped) = (Server::bind(&socket).expect("bind"), stop.clone());
    let model = std::thread::spawn(move || {
        let spec = ModelSpec::parse("ixgbe?wire=gen:udp4,flows=50,rate=20000&queues=2").expect("spec");
        let mut model = spec.open().expect("model");
        server
            .serve(&mut *model, &Options::default(), &stopped, &mut |_| {})
            .expect("serve");
    });
    let config = PortConfig {
        queues: 2,
        promiscuous: true,
        ..PortConfig::default()
    };
    let spec = PortSpec::new("eth0", format!("vfio-user:{}", socket.display())).config(config);
    let app = App::builder()
        .port(spec)
        .pin(false)
        .idle(patient())
        .build()
        .expect("app");
    let running = app.start().expect("start");
    until("traffic", || running.stats().total("rx_frames") > 100);
    stop.store(true, Ordering::Relaxed);
    model.join().expect("the model's thread");
    let killed = Instant::now();
    let error = running.wait().expect_err("the port is down");
    assert!(
        matches!(&error, AppError::PortDown { port, .. } if port == "eth0"),
        "{error}"
    );
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "{:?}",
        killed.elapsed()
    );
}

#[test]
fn an_application_that_is_built_and_dropped_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("tempdir");
    for _ in 0..3 {
        let app = builder("null", 2)
            .control("x")
            .run_dir(dir.path())
            .build()
            .expect("app");
        assert!(dir.path().join("x.sock").exists());
        let handle = app.handle();
        drop(app);
        assert!(!dir.path().join("x.sock").exists());
        assert!(
            handle.stop_queue("eth0", 0).is_err(),
            "a handle that outlives the application gets errors"
        );
    }
}

#[test]
fn a_stop_asked_for_by_a_handle_ends_run_with_a_report() {
    let app = builder("gen:udp4,flows=10,rate=10000", 1).build().expect("app");
    let handle = app.handle();
    let asker = std::thread::spawn(move || {
        until("traffic", || handle.stats().total("rx_frames") > 0);
        handle.request_stop("enough");
    });
    let report = app.run().expect("clean end");
    asker.join().expect("asker");
    assert_eq!(report.reason, "enough");
    assert!(report.stats.total("rx_frames") > 0);
    assert_eq!(report.buffers_missing, 0);
}

#[test]
fn wishes_that_cannot_be_met_are_refused_in_one_line_that_says_what_to_do() {
    let refused = |builder: millrace::AppBuilder| builder.build().expect_err("refused").to_string();
    let null = |name: &str| PortSpec::new(name, "model:ixgbe?wire=null");
    assert!(refused(App::builder()).contains("needs a port"));
    assert!(refused(App::builder().port(null("a")).port(null("a"))).contains("own name"));
    assert!(refused(App::builder().port(null("a")).workers(3)).contains("fewer workers"));
    assert!(refused(App::builder().port(null("a")).workers(0)).contains("at least one worker"));
    assert!(refused(App::builder().port(PortSpec::new("a", "nonsense"))).contains("model:ixgbe"));
    let gone = refused(App::builder().port(PortSpec::new("a", "vfio-user:/nonexistent/nic.sock")));
    assert!(gone.contains("/nonexistent/nic.sock"), "{gone}");
    let taken = tempfile::tempdir().expect("tempdir");
    let _first = builder("null", 1)
        .control("x")
        .run_dir(taken.path())
        .build()
        .expect("first");
    let second = refused(builder("null", 1).control("x").run_dir(taken.path()));
    assert!(second.contains("runs already"), "{second}");
}
