//! Work beside the requests: tasks that write, and hold a pass while they do.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::{Gate, OwnedPass};

/// One run of a task of [`Gate::spawn`]. The task is inside the gate for as long as it keeps this.
#[derive(Debug)]
#[must_use = "work whose value is dropped is outside the gate: what it writes then may be lost"]
pub struct Work {
    gate: Arc<Gate>,
    _pass: OwnedPass,
}

impl Work {
    /// Waits until the task is to come to an end: a drain waits for it. A task that sleeps or waits for
    /// something does so beside this.
    pub async fn told_to_stop(&self) {
        self.gate.closed().await;
    }

    /// Whether the task is to come to an end.
    #[must_use]
    pub fn is_told_to_stop(&self) -> bool {
        !self.gate.is_open()
    }
}

impl Gate {
    /// Runs a task that writes beside the requests: a compaction, say, or an expiry. It runs inside the
    /// gate, from the moment at which the gate is open; a drain tells it to stop, and waits for it. After
    /// a swap that was undone it runs again. A task that ends while the gate is open has ended for good.
    ///
    /// Without a pass such a task would go on in the old process while the new one serves: two processes
    /// would write.
    ///
    /// ```no_run
    /// # use std::{sync::Arc, time::Duration};
    /// # use handoff::Gate;
    /// # #[derive(Clone)] struct Store;
    /// # impl Store { async fn compact_a_little(&self) -> bool { false } }
    /// # fn start(gate: &Arc<Gate>, store: Store) {
    /// gate.spawn(move |work| {
    ///     let store = store.clone(); // for each run
    ///     async move {
    ///         loop {
    ///             tokio::select! {
    ///                 () = work.told_to_stop() => return,
    ///                 () = tokio::time::sleep(Duration::from_secs(60)) => {}
    ///             }
    ///             // In small steps: all clients wait while a drain waits for one.
    ///             while !work.is_told_to_stop() && store.compact_a_little().await {}
    ///         }
    ///     }
    /// });
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio.
    pub fn spawn<F>(self: &Arc<Self>, task: impl Fn(Work) -> F + Send + 'static) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send,
    {
        let gate = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let pass = gate.entered_owned().await;
                task(Work { gate: Arc::clone(&gate), _pass: pass }).await;
                if gate.is_open() {
                    return;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    use tokio::runtime::Runtime;

    use super::*;

    #[test]
    fn a_drain_tells_work_to_stop_and_waits_and_an_undo_begins_it_again() {
        let runtime = Runtime::new().expect("it starts");
        let _inside = runtime.enter();
        let (gate, runs) = (Arc::new(Gate::new()), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&runs);
        let task = gate.spawn(move |work| {
            let counted = Arc::clone(&counted);
            async move {
                counted.fetch_add(1, Ordering::SeqCst);
                work.told_to_stop().await;
                assert!(work.is_told_to_stop());
            }
        });
        assert_eq!(gate.inside(), 0, "the gate is closed");
        for run in 1..=3 {
            gate.open();
            let deadline = Instant::now() + Duration::from_secs(60);
            while runs.load(Ordering::SeqCst) < run {
                assert!(Instant::now() < deadline, "it does not run");
                std::thread::yield_now();
            }
            assert_eq!(gate.inside(), 1);
            gate.close();
            assert_eq!(gate.wait_empty(deadline), 0);
        }
        task.abort();
        // One that ends by itself is not begun again.
        gate.open();
        runtime.block_on(gate.spawn(async |_work| ())).expect("it ends");
        assert_eq!(gate.inside(), 0);
    }
}
