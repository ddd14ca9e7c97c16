//! The thread that does the disk work of the process, made at its start and for its life: a system
//! that later has no thread to give takes nothing away, and a disk that hangs holds up nobody else.
//!
//! It knows nothing of what the work is. Whoever hands it work waits for that before it hands it more,
//! so that a set's work is done one at a time.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// The thread. It goes on with what it does when this is dropped, and then ends.
#[derive(Debug)]
pub(super) struct Disk {
    work: Sender<Work>,
    /// Disconnected once the thread has ended.
    ended: Receiver<Infallible>,
}

impl Disk {
    /// Makes the thread.
    ///
    /// # Errors
    ///
    /// If the system has none to give.
    pub(super) fn start() -> io::Result<Self> {
        let (work, handed) = channel::<Work>();
        let (running, ended) = channel();
        std::thread::Builder::new().name("disk".into()).spawn(move || {
            let _running = running;
            for work in handed {
                work();
            }
        })?;
        Ok(Self { work, ended })
    }

    /// Has `work` done after what was handed in before, and returns what comes of it; `None` if it, or
    /// what came before it, panicked. Work that nobody waits for any more is done all the same.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, is_done) = oneshot::channel();
        let work = move || {
            // Nobody may be waiting.
            let _ = done.send(work());
        };
        self.work.send(Box::new(work)).ok()?;
        is_done.await.ok()
    }

    /// Lets the thread finish what it was handed, and waits for that as long as `patience`.
    pub(super) fn finish(self, patience: Duration) {
        let Self { work, ended } = self;
        drop(work);
        if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("a disk does not answer; what it was asked is given up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_order_by_one_thread_and_a_panic_is_told() {
        let disk = Disk::start().unwrap();
        let thread = || std::thread::current().id();
        let first = disk.run(thread).await.unwrap();
        assert_eq!(disk.run(thread).await, Some(first));
        assert_ne!(first, thread());
        let died: Option<()> = disk.run(|| panic!("the work went wrong")).await;
        assert_eq!(died, None);
        assert_eq!(disk.run(|| 1).await, None);
    }

    #[test]
    fn what_was_begun_is_finished_within_a_bound() {
        let (told, tells) = channel();
        let (go_on, waits) = channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for answers in [true, false] {
            let disk = Disk::start().unwrap();
            let (told, (go_on, waits)) = (told.clone(), channel::<()>());
            let work = move || {
                let _ = waits.recv();
                let _ = told.send(());
            };
            // It is handed in, and nobody waits for it.
            runtime.block_on(async {
                let mut run = std::pin::pin!(disk.run(work));
                std::future::poll_fn(|context| {
                    assert!(run.as_mut().poll(context).is_pending());
                    std::task::Poll::Ready(())
                })
                .await;
            });
            if answers {
                drop(go_on);
                disk.finish(Duration::from_secs(60));
                tells.try_recv().unwrap();
            } else {
                disk.finish(Duration::from_millis(1));
                assert!(tells.try_recv().is_err(), "it hangs still");
            }
        }
        drop((go_on, waits));
    }
}
