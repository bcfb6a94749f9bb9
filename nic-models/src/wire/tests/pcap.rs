use super::super::{PcapWire, WireError, open};
use super::{drain, refused};
use crate::packet::build::Frame;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use proptest::prelude::*;
use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

fn frames() -> Vec<Vec<u8>> {
    (0..20)
        .map(|i| {
            Frame::new()
                .ipv4([1; 4], [2; 4])
                .udp(i, 2)
                .payload(&vec![1; usize::from(i)])
                .build()
        })
        .collect()
}

/// Records frames with the wire itself.
fn record(path: &Path, frames: &[Vec<u8>]) {
    let mut wire = open(&format!("pcap:,{}", path.display())).unwrap();
    for frame in frames {
        wire.send(frame).unwrap();
    }
    wire.flush().unwrap();
}

/// A pcapng file of the same frames with one interface of a link type.
fn pcapng(frames: &[Vec<u8>], linktype: DataLink) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    writer
        .write_pcapng_block(InterfaceDescriptionBlock {
            linktype,
            snaplen: 0,
            options: vec![],
        })
        .unwrap();
    for frame in frames {
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::ZERO,
            original_len: frame.len() as u32,
            data: Cow::Borrowed(frame),
            options: vec![],
        };
        writer.write_pcapng_block(block).unwrap();
    }
    writer.into_inner()
}

#[test]
fn what_is_recorded_is_replayed_once() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first.pcap"), dir.path().join("second.pcap"));
    record(&first, &frames());
    let mut wire = open(&format!("pcap:{},{}", first.display(), second.display())).unwrap();
    assert!(wire.is_source());
    let replayed = drain(&mut *wire);
    assert_eq!(replayed, frames());
    assert!(!wire.is_source());
    assert_eq!(wire.recv().unwrap(), None);
    for frame in &replayed {
        wire.send(frame).unwrap();
    }
    wire.flush().unwrap();
    assert_eq!(
        drain(&mut *open(&format!("pcap:{}", second.display())).unwrap()),
        frames()
    );
}

#[test]
fn pcapng_is_replayed_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcapng");
    std::fs::write(&path, pcapng(&frames(), DataLink::ETHERNET)).unwrap();
    assert_eq!(
        drain(&mut PcapWire::open("", &path.display().to_string()).unwrap()),
        frames()
    );
}

#[test]
fn frames_that_the_capture_cut_short_are_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    record(&path, &frames());
    let mut file = std::fs::read(&path).unwrap();
    file[24 + 12] += 1; // the first frame's original length
    std::fs::write(&path, file).unwrap();
    let mut wire = open(&format!("pcap:{}", path.display())).unwrap();
    assert_eq!(drain(&mut *wire), frames()[1..]);
    assert!(wire.counters().contains(&("wire_recv_skipped", 1)));
}

#[test]
fn bad_captures_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    let complaint = |content: Option<&[u8]>| {
        let _ = std::fs::remove_file(&path);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = refused(&format!("pcap:{}", path.display()));
        assert!(matches!(error, WireError::Capture { .. }));
        error.to_string()
    };
    assert!(complaint(None).contains("cannot be read"));
    assert!(complaint(Some(b"")).contains("neither pcap nor pcapng"));
    assert!(complaint(Some(b"#!/bin/sh\necho no capture at all\n")).contains("neither pcap nor pcapng"));
    assert!(complaint(Some(&pcapng(&frames(), DataLink::LINUX_SLL))).contains("not Ethernet"));
    record(&path, &frames());
    let file = std::fs::read(&path).unwrap();
    assert!(complaint(Some(&file[..file.len() - 5])).contains("damaged after frame 19"));
    assert!(matches!(refused("pcap:"), WireError::Malformed { .. }));
    assert!(
        refused("pcap:,/no/such/folder/out.pcap")
            .to_string()
            .contains("cannot be created")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn damaged_captures_never_panic(ng: bool, cut: prop::sample::Index, spots: [(prop::sample::Index, u8); 4]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        let mut file = if ng {
            pcapng(&frames(), DataLink::ETHERNET)
        } else {
            record(&path, &frames());
            std::fs::read(&path).unwrap()
        };
        let len = file.len();
        for (at, value) in spots {
            file[at.index(len)] = value;
        }
        file.truncate(cut.index(len) + 1);
        std::fs::write(&path, file).unwrap();
        if let Ok(mut wire) = PcapWire::open("", &path.display().to_string()) {
            drain(&mut wire);
        }
    }
}
