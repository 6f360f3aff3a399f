//! A program at a terminal of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use handoff_tests::harness::{LIMIT, eventually};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

/// Ended with the value.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    /// All that the program has written, what it was asked included.
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    pub(crate) fn start(mut command: Command) -> Self {
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
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // At the end of the program this is an error.
            while let Ok(length @ 1..) = output.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..length]);
                shown.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self { child, keyboard, screen }
    }

    pub(crate) fn screen(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the prompt.
    pub(crate) fn wait_for(&self, prompt: &str) {
        eventually("it prompts", LIMIT, || self.screen().ends_with(prompt).then_some(()));
    }

    /// Types a line; what is shown behind it until the next prompt.
    pub(crate) fn ask(&mut self, line: &str, prompt: &str) -> String {
        let before = self.screen().len();
        writeln!(self.keyboard, "{line}").expect("it reads");
        let shown = eventually("it answers", LIMIT, || {
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
