//! One row of the report.

use super::Test;
use crate::report::Line;
use serde::Serialize;

/// One result. What a test does not measure is null.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub test: Test,
    /// Bytes of each frame, FCS included.
    pub size: u16,
    /// Load in percent: of the highest rate (loss), of the throughput (latency).
    pub load_percent: Option<f64>,
    /// Frames a second, in millions: the throughput; what was received (loss, latency); what one core of models moves.
    pub mpps: f64,
    /// The same as bits on the line: frames with FCS, preamble and gap.
    pub line_gbps: f64,
    /// In percent of the frames sent.
    pub loss_percent: Option<f64>,
    /// Frames of the longest burst without loss.
    pub burst_frames: Option<u64>,
    /// Half of the frames took no longer, in microseconds; and so on.
    pub p50_us: Option<f64>,
    pub p90_us: Option<f64>,
    pub p99_us: Option<f64>,
    #[serde(rename = "p99.9_us")]
    pub p999_us: Option<f64>,
    pub max_us: Option<f64>,
    /// What the models execute for a frame sent and received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_per_packet: Option<f64>,
    /// How sure the rate is, in percent.
    pub spread_percent: f64,
    /// What a person should know about this row.
    pub about: String,
    /// The distribution of delays: share of the frames, and microseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delays: Vec<(f64, f64)>,
}

impl Row {
    pub(super) fn new(test: Test, size: u16, pps: f64) -> Row {
        Row {
            test,
            size,
            load_percent: None,
            mpps: (pps / 1e3).round() / 1e3,
            line_gbps: (pps * f64::from(size + 20) * 8.0 / 1e7).round() / 100.0,
            loss_percent: None,
            burst_frames: None,
            p50_us: None,
            p90_us: None,
            p99_us: None,
            p999_us: None,
            max_us: None,
            instructions_per_packet: None,
            spread_percent: 0.0,
            about: String::new(),
            delays: Vec::new(),
        }
    }
}

impl Line for Row {
    fn header() -> String {
        format!(
            "{:<13} {:>5} {:>6} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9}  ",
            "test",
            "size",
            "load%",
            "Mpps",
            "Gbit/s",
            "loss%",
            "burst",
            "p50 us",
            "p90",
            "p99",
            "p99.9",
            "max"
        )
    }

    fn line(&self) -> String {
        let some =
            |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
        format!(
            "{:<13} {:>5} {:>6} {:>8.3} {:>8.2} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9}  {}",
            self.test,
            self.size,
            some(self.load_percent, 0),
            self.mpps,
            self.line_gbps,
            some(self.loss_percent, 3),
            self.burst_frames.map_or("-".to_owned(), |n| n.to_string()),
            some(self.p50_us, 1),
            some(self.p90_us, 1),
            some(self.p99_us, 1),
            some(self.p999_us, 1),
            some(self.max_us, 1),
            self.about
        )
    }
}
