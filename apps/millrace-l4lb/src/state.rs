//! What is known about one backend of one VIP, and what follows from it.

use serde::Serialize;

use crate::config::Health;

/// The state that control, logs and tables show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No check has answered yet.
    Checking,
    /// Takes flows.
    Up,
    /// Its checks fail. Its flows go to others.
    Down,
    /// Keeps its flows, gets no new ones.
    Drained,
    /// It serves, but where to send its frames is not known.
    Unresolved,
}

impl State {
    /// As it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            State::Checking => "checking",
            State::Up => "up",
            State::Down => "down",
            State::Drained => "drained",
            State::Unresolved => "unresolved",
        }
    }
}

/// Counts checks: `rise` successes in a row bring a backend up, `fall` failures take it down. The first check of all
/// decides at once, so that a restarted balancer serves soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    serving: Option<bool>,
    row: u32,
}

impl Pulse {
    /// Nothing known.
    pub fn unknown() -> Pulse {
        Pulse {
            serving: None,
            row: 0,
        }
    }

    /// Known without checks.
    pub fn assumed() -> Pulse {
        Pulse {
            serving: Some(true),
            row: 0,
        }
    }

    /// None before the first check.
    pub fn serving(&self) -> Option<bool> {
        self.serving
    }

    /// Takes a check's outcome; true when that changed the verdict.
    pub fn take(&mut self, success: bool, health: &Health) -> bool {
        let Some(serving) = self.serving else {
            self.serving = Some(success);
            return true;
        };
        if success == serving {
            self.row = 0;
            return false;
        }
        self.row += 1;
        if self.row < if success { health.rise } else { health.fall } {
            return false;
        }
        *self = Pulse {
            serving: Some(success),
            row: 0,
        };
        true
    }
}

/// Everything that decides about a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its checks.
    pub pulse: Pulse,
    /// Somebody, or the file, wants it to drain.
    pub drain: bool,
    /// Next hop.
    pub mac: Option<[u8; 6]>,
}

impl Standing {
    /// What follows.
    pub fn state(&self) -> State {
        match (self.pulse.serving(), self.mac, self.drain) {
            (None, ..) => State::Checking,
            (Some(false), ..) => State::Down,
            (Some(true), None, _) => State::Unresolved,
            (Some(true), Some(_), true) => State::Drained,
            (Some(true), Some(_), false) => State::Up,
        }
    }

    /// Whether the first answers are in, good or bad: until then a VIP waits rather than giving everything to whoever
    /// answers first.
    pub fn settled(&self) -> bool {
        match self.pulse.serving() {
            None => false,
            Some(false) => true,
            Some(true) => self.mac.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CheckKind;
    use std::time::Duration;

    fn health(rise: u32, fall: u32) -> Health {
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(1));
        Health {
            kind: CheckKind::Tcp,
            port: 80,
            interval,
            timeout,
            rise,
            fall,
        }
    }

    #[test]
    fn the_first_check_decides_at_once() {
        let mut pulse = Pulse::unknown();
        assert_eq!(pulse.serving(), None);
        assert!(pulse.take(false, &health(3, 3)));
        assert_eq!(pulse.serving(), Some(false));
    }

    #[test]
    fn rise_and_fall_count_checks_in_a_row() {
        let mut pulse = Pulse::assumed();
        let checks = [
            (false, true),
            (false, true),
            (true, true),
            (false, true),
            (false, true),
            (false, false),
        ];
        for (success, serving) in checks {
            pulse.take(success, &health(2, 3));
            assert_eq!(pulse.serving(), Some(serving));
        }
        assert!(!pulse.take(true, &health(2, 3)));
        assert!(pulse.take(true, &health(2, 3)));
        assert_eq!(pulse.serving(), Some(true));
    }

    #[test]
    fn a_backend_needs_a_pulse_and_a_mac_to_be_up() {
        let mut standing = Standing {
            pulse: Pulse::unknown(),
            drain: false,
            mac: None,
        };
        assert_eq!(standing.state(), State::Checking);
        standing.pulse = Pulse::assumed();
        assert_eq!(standing.state(), State::Unresolved);
        standing.mac = Some([2; 6]);
        assert_eq!(standing.state(), State::Up);
        standing.drain = true;
        assert_eq!(standing.state(), State::Drained);
        standing.pulse.take(false, &health(1, 1));
        assert_eq!(standing.state(), State::Down);
    }
}
