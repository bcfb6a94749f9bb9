//! How a snapshot reaches the workers: the newest one is looked for once a helper call, with one relaxed load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Routes;

#[derive(Debug, Default)]
struct Shared {
    /// Counts publications.
    generation: AtomicU64,
    newest: Mutex<Newest>,
}

#[derive(Debug, Default)]
struct Newest {
    routes: Arc<Routes>,
    /// Older ones that a worker may still hold: freed here, never by a worker in the middle of a frame.
    older: Vec<Arc<Routes>>,
}

/// Hands route snapshots to instances ([`crate::Instance::set_routes`]). Clones are the same feed.
#[derive(Debug, Clone, Default)]
pub struct RouteFeed(Arc<Shared>);

impl RouteFeed {
    /// A feed that begins with a snapshot.
    pub fn new(routes: Routes) -> RouteFeed {
        let feed = RouteFeed::default();
        feed.publish(routes);
        feed
    }

    /// Replaces the snapshot; lookups that begin from now on see it.
    pub fn publish(&self, routes: Routes) {
        let mut newest = self.0.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut newest.routes, Arc::new(routes));
        newest.older.push(before);
        newest.older.retain(|old| Arc::strong_count(old) > 1);
        // Under the lock, so that a reader who sees the number finds at least this snapshot.
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// How many snapshots were published.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    pub(crate) fn reader(&self) -> RouteReader {
        RouteReader {
            feed: self.clone(),
            generation: 0,
            routes: Arc::default(),
        }
    }
}

/// One worker's view of a feed.
#[derive(Debug, Default)]
pub(crate) struct RouteReader {
    feed: RouteFeed,
    generation: u64,
    routes: Arc<Routes>,
}

impl RouteReader {
    /// The newest snapshot. Only after a publication is a lock taken, for as long as copying a pointer takes.
    pub fn newest(&mut self) -> &Routes {
        let generation = self.feed.generation();
        if generation != self.generation {
            let newest = self.feed.0.newest.lock().unwrap_or_else(PoisonError::into_inner);
            self.routes = newest.routes.clone();
            self.generation = generation;
        }
        &self.routes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Link;

    fn with(mtu: u32) -> Routes {
        Routes::new([Link {
            index: 1,
            mtu,
            ..Link::default()
        }])
    }

    #[test]
    fn a_reader_sees_the_newest_snapshot_and_old_ones_are_freed() {
        let feed = RouteFeed::new(with(1));
        let mut reader = feed.reader();
        assert_eq!(reader.newest().links[&1].mtu, 1);
        let first = Arc::downgrade(&reader.routes);
        feed.publish(with(2));
        assert!(first.upgrade().is_some(), "the reader still has it");
        assert_eq!(reader.newest().links[&1].mtu, 2);
        assert!(
            first.upgrade().is_some(),
            "the publisher frees it, not the reader"
        );
        feed.publish(with(3));
        assert!(first.upgrade().is_none());
    }

    #[test]
    fn a_feed_without_a_snapshot_is_empty() {
        assert!(RouteFeed::default().reader().newest().links.is_empty());
    }
}
