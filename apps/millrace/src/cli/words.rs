//! Keyword arguments in the manner of ip and bpftool: `port eth0 queue 0`, `key 0a 00 value 01`.

use super::CliError;
use std::collections::VecDeque;

pub(super) struct Words {
    rest: VecDeque<String>,
    usage: &'static str,
}

impl Words {
    pub(super) fn new(words: Vec<String>, usage: &'static str) -> Words {
        Words {
            rest: words.into(),
            usage,
        }
    }

    pub(super) fn error(&self, what: impl std::fmt::Display) -> CliError {
        CliError::Usage(format!("{what}; usage: {}", self.usage))
    }

    /// The next word, whatever it is.
    pub(super) fn next(&mut self, what: &str) -> Result<String, CliError> {
        self.rest
            .pop_front()
            .ok_or_else(|| self.error(format_args!("{what} is missing")))
    }

    pub(super) fn next_if_any(&mut self) -> Option<String> {
        self.rest.pop_front()
    }

    /// Takes `word` if it comes next.
    pub(super) fn skip(&mut self, words: &[&str]) -> bool {
        let found = self
            .rest
            .front()
            .is_some_and(|next| words.contains(&next.as_str()));
        if found {
            self.rest.pop_front();
        }
        found
    }

    /// Takes the next word if it is one of these.
    pub(super) fn one_of(&mut self, words: &[&str]) -> Option<String> {
        self.rest.pop_front_if(|next| words.contains(&next.as_str()))
    }

    /// Whether one of these comes after the next word.
    pub(super) fn second_is(&self, words: &[&str]) -> bool {
        self.rest
            .get(1)
            .is_some_and(|word| words.contains(&word.as_str()))
    }

    pub(super) fn end(&mut self) -> Result<(), CliError> {
        match self.rest.pop_front() {
            None => Ok(()),
            Some(word) => Err(self.error(format_args!("{word:?} is not expected here"))),
        }
    }

    /// Hex bytes up to the end or one of `until`: `0a 00`, `0x0a 0x00`, `0a00`, or a mix, `hex` in front allowed.
    pub(super) fn bytes(&mut self, what: &str, until: &[&str]) -> Result<String, CliError> {
        self.skip(&["hex"]);
        let mut out = String::new();
        while let Some(word) = self.rest.front() {
            if until.contains(&word.as_str()) {
                break;
            }
            let digits = word.strip_prefix("0x").unwrap_or(word);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(self.error(format_args!("{word:?} is not a hex byte of the {what}")));
            }
            if digits.len() % 2 == 1 {
                if digits.len() > 1 {
                    return Err(self.error(format_args!("{word:?} has an odd number of hex digits")));
                }
                out.push('0');
            }
            out.push_str(&digits.to_ascii_lowercase());
            self.rest.pop_front();
        }
        if out.is_empty() {
            Err(self.error(format_args!("the {what} has no bytes")))
        } else {
            Ok(out)
        }
    }
}

/// `queue N` or `queue all`.
pub(super) fn queue(words: &mut Words) -> Result<serde_json::Value, CliError> {
    let word = words.next("the queue's number")?;
    if word == "all" {
        return Ok("all".into());
    }
    let number: Result<u16, _> = word.parse();
    number
        .map(Into::into)
        .map_err(|_| words.error(format_args!("{word:?} is no queue; give a number or all")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Words {
        Words::new(text.split_whitespace().map(str::to_string).collect(), "test")
    }

    #[test]
    fn bytes_are_read_as_bpftool_users_write_them() {
        for text in ["0a 00 00 01", "0x0a 0x0 0x00 1", "0A000001", "hex 0a 00 0001"] {
            assert_eq!(words(text).bytes("key", &[]).expect(text), "0a000001", "{text}");
        }
        let mut both = words("1 2 value 3");
        assert_eq!(both.bytes("key", &["value"]).expect("key"), "0102");
        assert!(both.skip(&["value"]));
        assert_eq!(both.bytes("value", &[]).expect("value"), "03");
        for bad in ["", "zz", "0a0", "256"] {
            assert!(words(bad).bytes("key", &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_word_too_many_is_named_together_with_the_usage() {
        let error = words("surprise").end().expect_err("too many").to_string();
        assert!(
            error.contains("surprise") && error.contains("usage: test"),
            "{error}"
        );
    }
}
