//! A program at a terminal of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use super::{TIMEOUT, eventually};

/// Ended with the value.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// All that the program has written, what it was asked included.
    screen: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Terminal {
    /// Starts a program with its three standard streams at a terminal.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).expect("there are terminals");
        grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("it is ours");
        let line = ioctl_tiocgptpeer(&keyboard, flags).expect("it has another end");
        let line = || line.try_clone().expect("descriptors are left");
        command.stdin(line()).stdout(line()).stderr(line());
        let child = command.spawn().expect("it is installed");
        // With the command the last of our ends of the line goes.
        drop(command);
        let keyboard = File::from(keyboard);
        let mut output = keyboard.try_clone().expect("descriptors are left");
        let screen = Arc::<Mutex<String>>::default();
        let shown = Arc::clone(&screen);
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            // At the end of the program this is an error.
            while let Ok(length @ 1..) = output.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..length]);
                shown.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self { child, keyboard, screen, reader: Some(reader) }
    }

    /// All that was shown until now.
    #[must_use]
    pub fn screen(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts it as the leader of a session whose terminal this is, so that what is typed to
    /// interrupt it does.
    #[must_use]
    pub fn start_controlling(command: &Command) -> Self {
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(name, value),
                None => leader.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            leader.current_dir(directory);
        }
        Self::start(leader)
    }

    /// The program's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types control and C.
    pub fn interrupt(&mut self) {
        self.keyboard.write_all(b"\x03").expect("it reads");
    }

    /// Waits until that is shown.
    pub fn wait_to_show(&self, text: &str) {
        let deadline = std::time::Instant::now() + TIMEOUT;
        while !self.screen().contains(text) {
            let late = std::time::Instant::now() > deadline;
            assert!(!late, "{text:?} is not shown:\n{}", self.screen());
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Kills the program, and waits for its end alone: what it started lives on.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// Waits for its end, and for that of whatever it started: its exit code, and all that was
    /// shown.
    ///
    /// # Panics
    ///
    /// When it does not end within the timeout.
    pub fn finish(&mut self) -> (Option<i32>, String) {
        let status = eventually("it ends", TIMEOUT, || self.child.try_wait().expect("it is ours"));
        // Its last words are on their way still.
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it reads to the end");
        }
        (status.code(), self.screen().replace('\r', ""))
    }

    /// Waits for the end of the program alone, whatever it leaves behind: its exit code.
    ///
    /// # Panics
    ///
    /// When it does not end within the timeout.
    pub fn exit_code(&mut self) -> Option<i32> {
        eventually("it ends", TIMEOUT, || self.child.try_wait().expect("it is ours")).code()
    }

    /// Waits for the prompt.
    pub fn wait_for(&self, prompt: &str) {
        eventually("it prompts", TIMEOUT, || self.screen().ends_with(prompt).then_some(()));
    }

    /// Types a line; what is shown after it until the next prompt.
    pub fn ask(&mut self, line: &str, prompt: &str) -> String {
        let before = self.screen().len();
        writeln!(self.keyboard, "{line}").expect("it reads");
        let shown = eventually("it answers", TIMEOUT, || {
            let shown = self.screen().split_off(before);
            let answered = shown.strip_suffix(prompt)?;
            Some(answered.split_once("\r\n")?.1.trim_end().to_owned())
        });
        shown.replace('\r', "")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
