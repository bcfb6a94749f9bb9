//! Several programs on one queue: in which order they run, and after which verdicts the next one does. The rules and the
//! metadata are those of libxdp's dispatcher (xdp-tools, lib/libxdp/README.org, "Using libxdp: chain call actions").

use crate::object::btf::{Btf, Kind};
use crate::{LoadError, XdpAction};

/// Section in whose BTF a program's run configuration stands.
const SECTION: &str = ".xdp_run_config";

/// A program's place in a chain: `struct { __uint(priority, 10); __uint(XDP_PASS, 1); } XDP_RUN_CONFIG(function)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunConfig {
    /// Lower runs earlier; programs of equal priority run in the order of their names.
    pub priority: u32,
    /// Verdicts after which the next program runs: bit n for the action numbered n.
    pub actions: u32,
}

impl Default for RunConfig {
    /// What libxdp takes for a program that says nothing: priority 50, and the next program runs after `XDP_PASS`.
    fn default() -> RunConfig {
        RunConfig {
            priority: 50,
            actions: 1 << XdpAction::Pass as u32,
        }
    }
}

impl RunConfig {
    /// Whether the next program of the chain runs after this raw verdict. 31 is what an empty place of the dispatcher
    /// returns, which always goes on. For results that are no verdict this does what the dispatcher's compiled code
    /// does: it shifts the actions, as a 64-bit number, by the result's low six bits.
    #[inline]
    pub fn goes_on(&self, raw: u32) -> bool {
        u64::from(self.actions | 1 << 31) >> (raw & 63) & 1 != 0
    }

    /// The actions after which the next program runs.
    pub fn action_names(&self) -> Vec<&'static str> {
        XdpAction::ALL
            .into_iter()
            .filter(|action| self.actions >> *action as u32 & 1 != 0)
            .map(XdpAction::name)
            .collect()
    }

    /// Switches going on after an action on or off.
    pub fn set_action(&mut self, action: XdpAction, on: bool) {
        let bit = 1 << action as u32;
        self.actions = if on {
            self.actions | bit
        } else {
            self.actions & !bit
        };
    }

    /// What the object says about a function; the default where it says nothing.
    pub(crate) fn of(btf: &Btf, function: &str) -> Result<RunConfig, LoadError> {
        let mut config = RunConfig::default();
        let wanted = format!("_{function}");
        let vars = btf.section_vars(SECTION);
        let Some((_, ty)) = vars.into_iter().find(|(name, _)| *name == wanted) else {
            return Ok(config);
        };
        let bad = |what: String| LoadError::Btf(format!("the run configuration of `{function}`: {what}"));
        let Some(Kind::Composite { members, .. }) = btf.resolve(ty).map(|t| &t.kind) else {
            return Err(bad("it is no struct".into()));
        };
        for member in members {
            let name = btf.string(member.name);
            let value = btf
                .uint(member.ty)
                .ok_or_else(|| bad(format!("`{name}` is not written with __uint")))?;
            let action = XdpAction::ALL.into_iter().find(|action| action.name() == name);
            match (name, action) {
                ("priority", _) => config.priority = value,
                (_, Some(action)) => config.set_action(action, value != 0),
                _ => {
                    return Err(bad(format!(
                        "there is no `{name}`; write priority or a verdict such as XDP_PASS"
                    )));
                }
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_the_next_program_runs_after_pass_only() {
        let config = RunConfig::default();
        let on: Vec<u32> = (0..128).filter(|raw| config.goes_on(*raw)).collect();
        assert_eq!(on, [2, 31, 66, 95], "the dispatcher shifts by the low six bits");
        assert_eq!((config.priority, config.action_names()), (50, vec!["XDP_PASS"]));
    }

    #[test]
    fn actions_are_switched_one_by_one() {
        let mut config = RunConfig::default();
        config.set_action(XdpAction::Drop, true);
        config.set_action(XdpAction::Pass, false);
        assert!(config.goes_on(1) && !config.goes_on(2) && !config.goes_on(0));
    }
}
