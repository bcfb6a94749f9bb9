//! Verbs and their handlers. The framework fills in its own; an application adds more with [`ControlRegistry::register`].

use super::protocol::{ControlError, ErrorCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

type Handler = Arc<dyn Fn(&Value) -> Result<Value, ControlError> + Send + Sync>;

/// Cheap to clone; clones share the verbs.
#[derive(Clone, Default)]
pub struct ControlRegistry {
    verbs: Arc<RwLock<BTreeMap<String, Handler>>>,
}

impl ControlRegistry {
    pub fn new() -> ControlRegistry {
        ControlRegistry::default()
    }

    /// Answers `verb` with `handler`, which gets the request's `args` (null when left out). It runs on the client's own
    /// thread, so it may wait, but other clients may call it at the same time. A verb registered again is replaced.
    pub fn register<F>(&self, verb: &str, handler: F)
    where
        F: Fn(&Value) -> Result<Value, ControlError> + Send + Sync + 'static,
    {
        self.verbs
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(verb.to_string(), Arc::new(handler));
    }

    /// Forgets all verbs and what their handlers hold.
    pub(crate) fn clear(&self) {
        let verbs = std::mem::take(&mut *self.verbs.write().unwrap_or_else(PoisonError::into_inner));
        // Outside the lock: a handler may hold the last handle to what it serves.
        drop(verbs);
    }

    /// All verbs in alphabetical order.
    pub fn verbs(&self) -> Vec<String> {
        self.verbs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    /// Runs a verb.
    pub fn call(&self, verb: &str, args: &Value) -> Result<Value, ControlError> {
        let handler = self
            .verbs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(verb)
            .cloned();
        match handler {
            Some(handler) => handler(args),
            None => Err(ControlError::new(
                ErrorCode::UnknownVerb,
                format!("there is no verb {verb:?} here; `version` lists those there are"),
            )),
        }
    }
}

impl fmt::Debug for ControlRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlRegistry")
            .field("verbs", &self.verbs())
            .finish()
    }
}

/// Reads a verb's arguments into a struct; left out means an empty object.
pub fn parse_args<T: DeserializeOwned>(args: &Value) -> Result<T, ControlError> {
    let given = if args.is_null() {
        Value::Object(Default::default())
    } else {
        args.clone()
    };
    serde_json::from_value(given).map_err(|e| ControlError::invalid(format!("wrong arguments: {e}")))
}
