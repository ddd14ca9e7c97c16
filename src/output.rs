//! What a serving process says, without ever waiting for whoever should read it: lines go into a
//! bounded queue, a thread of its own writes them, and what does not fit is counted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// What may wait to be written, in bytes: more than the lines of a start in a directory of a thousand
/// bad files.
const MAX_QUEUED: usize = 256 * 1024;
/// How often to try again where a descriptor is one that does not block.
const PAUSE: Duration = Duration::from_millis(50);

/// A stream of lines. Clones are the same stream.
#[derive(Debug, Clone, Default)]
pub struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    is_started: bool,
    /// Lines that did not fit, since the last that was told of them.
    lost: u64,
    /// Whether a line is being written.
    is_writing: bool,
    /// Whether no line will follow.
    is_ended: bool,
}

impl Output {
    /// Makes the thread that writes to `sink`. `report` is called by it with the number of lines that
    /// were lost, once there is room again; it may say something itself.
    ///
    /// # Errors
    ///
    /// If the system has no thread to give.
    pub fn start(
        &self,
        name: &str,
        sink: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let write = move || shared.write_all(sink, report);
        std::thread::Builder::new().name(name.into()).spawn(write)?;
        self.shared.queue.lock().is_started = true;
        Ok(())
    }

    /// Says `line`, or counts it as lost where too much waits already.
    pub fn say(&self, line: &[u8]) {
        let mut queue = self.shared.queue.lock();
        if queue.bytes + line.len() > MAX_QUEUED {
            queue.lost += 1;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_owned());
        self.shared.changed.notify_all();
    }

    /// Says no more: the thread ends once it has written what there is.
    pub fn end(&self) {
        self.shared.queue.lock().is_ended = true;
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, as long as `patience`; whether it is. Where there is no thread,
    /// this one writes to standard error.
    pub fn finish(&self, patience: Duration) -> bool {
        let mut queue = self.shared.queue.lock();
        if !queue.is_started {
            for line in queue.lines.drain(..) {
                write(&mut io::stderr(), &line);
            }
            return true;
        }
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        !self.shared.changed.wait_while_for(&mut queue, is_busy, patience).timed_out()
    }
}

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.say(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn write_all(&self, mut sink: impl Write, report: impl Fn(u64)) {
        while let Some(line) = self.next() {
            write(&mut sink, &line);
            if let Some(lost) = self.written() {
                report(lost);
            }
            self.rest();
        }
    }

    /// The next line, once there is one; `None` if there will be none.
    fn next(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue.lock();
        self.changed.wait_while(&mut queue, |queue| queue.lines.is_empty() && !queue.is_ended);
        let line = queue.lines.pop_front()?;
        queue.bytes -= line.len();
        queue.is_writing = true;
        Some(line)
    }

    /// How many lines were lost, if any were and half of the room is free again.
    fn written(&self) -> Option<u64> {
        let mut queue = self.queue.lock();
        let has_room = queue.bytes <= MAX_QUEUED / 2;
        (has_room && queue.lost > 0).then(|| std::mem::take(&mut queue.lost))
    }

    fn rest(&self) {
        self.queue.lock().is_writing = false;
        self.changed.notify_all();
    }
}

/// Writes a whole line. One that cannot be written is given up: there is nobody to tell.
fn write(sink: &mut impl Write, mut line: &[u8]) {
    while !line.is_empty() {
        match sink.write(line) {
            Ok(0) => return,
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody who shares the descriptor has made it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A sink that takes a line when it is told to.
    struct Slow {
        go_on: Receiver<()>,
        taken: Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // Once the test is over, anything goes.
            let _ = self.go_on.recv();
            // In two parts, as a pipe may.
            let half = line.len().div_ceil(2);
            let _ = self.taken.send(String::from_utf8_lossy(&line[..half]).into_owned());
            Ok(half)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_not_read_is_counted_and_nobody_waits() {
        let (go_on, waits) = channel();
        let (taken, received) = channel();
        let output = Output::default();
        let (report, reported) = channel();
        let report = move |lost| report.send(lost).unwrap();
        output.start("test", Slow { go_on: waits, taken }, report).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..1000 {
            output.say(&line);
        }
        assert!(!output.finish(Duration::from_millis(1)), "it waits no longer than that");
        drop(go_on);
        assert!(output.finish(PATIENCE));
        let lost = usize::try_from(reported.try_recv().unwrap()).unwrap();
        let written: usize = received.try_iter().map(|part| part.len()).sum();
        assert_eq!(written, (1000 - lost) * line.len(), "each line is written or counted");
        assert!((256..=257).contains(&(1000 - lost)), "{lost}");
        output.say(b"after");
        assert!(output.finish(PATIENCE));
        let after: String = received.try_iter().collect();
        assert_eq!(after, "after");
    }

    /// One that fails, as a closed pipe or a full disk does.
    struct Broken(Arc<Mutex<Vec<ErrorKind>>>);

    impl Write for Broken {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            match self.0.lock().pop() {
                Some(kind) => Err(kind.into()),
                None => Ok(line.len()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_fails_ends_nothing() {
        let kinds = vec![
            ErrorKind::WouldBlock,
            ErrorKind::Interrupted,
            ErrorKind::BrokenPipe,
            ErrorKind::StorageFull,
        ];
        let kinds = Arc::new(Mutex::new(kinds));
        let output = Output::default();
        output.start("test", Broken(Arc::clone(&kinds)), |_| {}).unwrap();
        for _ in 0..3 {
            output.say(b"line");
        }
        output.end();
        assert!(output.finish(PATIENCE));
        assert!(kinds.lock().is_empty());
    }
}
