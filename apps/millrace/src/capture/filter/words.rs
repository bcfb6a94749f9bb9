//! Words of an expression, and the names that stand for numbers in it (pcap-filter(7)).

/// Splits at blanks and around operators; what is in brackets is one word, without blanks and with its `[`.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let operator = matches!(c, '(' | ')' | '[' | '!' | '=' | '<' | '>' | '&' | '|');
        if (c.is_whitespace() || operator) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        match c {
            c if c.is_whitespace() => {}
            '[' => {
                let mut inner = String::from(c);
                for c in rest.by_ref() {
                    if !c.is_whitespace() {
                        inner.push(c);
                    }
                    if c == ']' {
                        break;
                    }
                }
                words.push(inner);
            }
            '&' | '|' => {
                let twice = rest.next_if_eq(&c).is_some();
                let name = match (c, twice) {
                    ('&', true) => "and",
                    ('|', true) => "or",
                    ('&', false) => "&",
                    _ => "|",
                };
                words.push(name.into());
            }
            '!' | '=' | '<' | '>' => {
                let equal = rest.next_if_eq(&'=').is_some();
                let name = match (c, equal) {
                    ('!', false) => "not".into(),
                    ('=', _) => "=".into(),
                    (c, false) => c.to_string(),
                    (c, true) => format!("{c}="),
                };
                words.push(name);
            }
            '(' | ')' => words.push(c.into()),
            // A backslash only says that the word is no keyword.
            '\\' => {}
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// A number in decimal, hexadecimal (0x) or octal (0), or one of tcpdump's names for offsets and values.
pub(super) fn number(word: &str) -> Option<u64> {
    const NAMES: [(&str, u64); 20] = [
        ("tcpflags", 13),
        ("icmptype", 0),
        ("icmpcode", 1),
        ("icmp6type", 0),
        ("icmp6code", 1),
        ("tcp-fin", 0x01),
        ("tcp-syn", 0x02),
        ("tcp-rst", 0x04),
        ("tcp-push", 0x08),
        ("tcp-ack", 0x10),
        ("tcp-urg", 0x20),
        ("tcp-ece", 0x40),
        ("tcp-cwr", 0x80),
        ("icmp-echoreply", 0),
        ("icmp-unreach", 3),
        ("icmp-redirect", 5),
        ("icmp-echo", 8),
        ("icmp-timxceed", 11),
        ("icmp6-echo", 128),
        ("icmp6-echoreply", 129),
    ];
    if let Some((_, value)) = NAMES.iter().find(|(name, _)| *name == word) {
        return Some(*value);
    }
    if let Some(hex) = word.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    match word.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u64::from_str_radix(octal, 8).ok(),
        _ => word.parse().ok(),
    }
}

/// A protocol number by its number or name.
pub(super) fn protocol(word: &str) -> Option<u8> {
    const NAMES: [(&str, u8); 11] = [
        ("icmp", 1),
        ("igmp", 2),
        ("tcp", 6),
        ("udp", 17),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("icmp6", 58),
        ("pim", 103),
        ("vrrp", 112),
        ("sctp", 132),
    ];
    let named = NAMES.iter().find(|(name, _)| *name == word);
    named
        .map(|(_, n)| *n)
        .or_else(|| number(word).and_then(|n| n.try_into().ok()))
}

/// A port by its number or its name in /etc/services.
pub(super) fn port(word: &str) -> Option<u16> {
    if let Some(n) = number(word) {
        return n.try_into().ok();
    }
    // Names in the file that is there; without one there are none.
    let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
    services.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut parts = line.split_whitespace();
        let (name, port) = (parts.next()?, parts.next()?);
        let is = name == word || parts.any(|alias| alias == word);
        is.then(|| port.split('/').next()?.parse().ok()).flatten()
    })
}
