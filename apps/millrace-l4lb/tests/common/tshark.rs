//! Wireshark reads what we built.

use std::path::Path;
use std::process::Command;

/// What is wrong with frames: anything malformed, any bad checksum. In a datagram that an ICMP error quotes in part, Wireshark
/// sums up the part, so the checksums of those are left out.
const COMPLAINTS: &str = "_ws.malformed || ip.checksum.status == 0 || icmp.checksum.status == 0 || \
    icmpv6.checksum.status == 0 || ip.bogus_ip_length || ipv6.plen_exceeds_framing || \
    ((tcp.checksum.status == 0 || udp.checksum.status == 0) && !icmp && !icmpv6)";

/// Fails if Wireshark finds anything wrong with one of the frames.
pub fn accepts(test: &str, frames: &[Vec<u8>]) {
    let folder = tempfile::tempdir().expect("a folder for the capture");
    let path = folder.path().join("frames.pcap");
    std::fs::write(&path, pcap(frames)).expect("the capture can be written");
    match tshark(&path, COMPLAINTS) {
        Err(why) => println!("SKIP {test} (tshark): {why}"),
        Ok(text) => assert!(text.is_empty(), "{test}: Wireshark complains:\n{text}"),
    }
    if let Ok(text) = tshark(&path, "frame") {
        assert_eq!(
            text.lines().count(),
            frames.len(),
            "{test}: Wireshark sees every frame"
        );
    }
}

fn tshark(path: &Path, filter: &str) -> Result<String, String> {
    let mut command = Command::new("tshark");
    for option in ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"] {
        command.arg("-o").arg(format!("{option}:TRUE"));
    }
    let output = command
        .arg("-r")
        .arg(path)
        .args(["-Y", filter])
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The classic capture format: one global header, then 16 bytes before each frame. Link type 1 is Ethernet.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        out.extend(word.to_ne_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(frame);
    }
    out
}
