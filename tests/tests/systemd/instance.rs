//! An instance of the shipped units, with a configuration and a daemon of its own.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use handoff_tests::harness::{TIMEOUT, eventually, kill, program};
use handoff_tests::kvd::Clients;
use handoff_tests::systemd::{Machine, missing};
use rustix::process::Signal;

/// The units, as the package has them.
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../handoff/cli/units");

/// Stopped with the value, whatever is left of it.
pub(crate) struct Instance {
    pub(crate) machine: Arc<Machine>,
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// Why the scenarios are skipped here, if they are.
pub(crate) fn is_skipped(test: &str) -> bool {
    let missing = missing();
    if let Some(why) = &missing {
        let is_required =
            std::env::var_os("HANDOFF_SYSTEMD").is_some_and(|word| word == "required");
        assert!(!is_required, "HANDOFF_SYSTEMD=required, and {why}");
        println!("skipped: {test}: {why}");
    }
    missing.is_some()
}

/// The machine of most scenarios. It ends with this process.
fn shared() -> Arc<Machine> {
    static MACHINE: OnceLock<Arc<Machine>> = OnceLock::new();
    MACHINE.get_or_init(|| Arc::new(booted())).clone()
}

/// A machine with the units and programs.
fn booted() -> Machine {
    let machine = Machine::boot();
    machine.install(program("handoff"), "/usr/bin/handoff");
    machine.install(program("kvd"), "/opt/kvd");
    for unit in ["handoff@.service", "handoff@.socket"] {
        let shipped = Path::new(UNITS).join(unit);
        machine.install(&shipped, &format!("/etc/systemd/system/{unit}"));
    }
    machine.said(&["systemctl", "daemon-reload"]);
    machine
}

impl Instance {
    /// One that is not started yet; none where that test is skipped.
    pub(crate) fn new(test: &str) -> Option<Self> {
        (!is_skipped(test)).then(|| Self::on(shared()))
    }

    /// The same on a machine of its own, where no other test has systemd read its units again.
    pub(crate) fn alone(test: &str) -> Option<Self> {
        (!is_skipped(test)).then(|| Self::on(Arc::new(booted())))
    }

    fn on(machine: Arc<Machine>) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(7000);
        // Clients are threads that this one starts.
        machine.join_network();
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let instance = Self { machine, name: format!("kvd{port}"), port };
        instance.configure(1, "", "");
        instance
    }

    /// The same, once it serves.
    pub(crate) fn started(test: &str) -> Option<Self> {
        let instance = Self::new(test)?;
        instance.start();
        Some(instance)
    }

    /// Writes the configuration: the build that serves next, its further arguments, and more.
    pub(crate) fn configure(&self, build: u32, args: &str, more: &str) {
        let Self { name, port, .. } = self;
        let (state, run) = (format!("/var/lib/handoff/{name}"), format!("/run/handoff/{name}"));
        let text = format!(
            r#"state_dir = "{state}/handoff"
socket = "{run}/supervisor.sock"

[daemon]
binary = "/opt/kvd"
control = "{run}/control.sock"
args = ["serve", "--data", "{state}/data", "--control", "{run}/control.sock", "--build", "{build}"{args}]

[[listeners]]
name = "resp"
address = "127.0.0.1:{port}"

{more}
"#
        );
        self.machine.write(&format!("/etc/handoff/{name}.toml"), &text);
    }

    /// The name of the service.
    pub(crate) fn service(&self) -> String {
        format!("handoff@{}.service", self.name)
    }

    pub(crate) fn socket(&self) -> String {
        format!("handoff@{}.socket", self.name)
    }

    /// Adds settings to a unit of this instance alone.
    pub(crate) fn drop_in(&self, unit: &str, text: &str) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.machine.write(&format!("/etc/systemd/system/{unit}.d/{number}.conf"), text);
        self.machine.said(&["systemctl", "daemon-reload"]);
    }

    /// Takes all but their network from the supervisor and the daemon, as shipped.
    pub(crate) fn harden(&self) {
        let path = [UNITS, "handoff@.service.d/hardened.conf"].join("/");
        let text = std::fs::read_to_string(path).expect("it is shipped");
        self.drop_in(&self.service(), &text);
    }

    pub(crate) fn start(&self) {
        self.machine.said(&["systemctl", "start", &self.service()]);
        assert_eq!(self.status()["daemon"]["state"], "serving");
    }

    /// `systemctl VERB` of the service.
    pub(crate) fn systemctl(&self, verb: &str) -> Output {
        self.machine.output(&["systemctl", verb, &self.service()])
    }

    /// A property of the service, in systemd's words.
    pub(crate) fn property(&self, name: &str) -> String {
        let option = format!("--property={name}");
        let said = self.machine.said(&["systemctl", "show", "--value", &option, &self.service()]);
        said.trim().to_owned()
    }

    /// What was logged by the supervisor, the daemon, and systemd about them.
    pub(crate) fn journal(&self) -> String {
        let service = self.service();
        self.machine.said(&["journalctl", "--no-pager", "--output=cat", "--unit", &service])
    }

    /// `handoff` with the configuration of this instance, by root.
    pub(crate) fn handoff(&self, arguments: &[&str]) -> Output {
        let config = format!("/etc/handoff/{}.toml", self.name);
        let mut line = vec!["/usr/bin/handoff", "--config", &config];
        line.extend(arguments);
        self.machine.output(&line)
    }

    /// `handoff status --json`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let output = self.handoff(&["status", "--json"]);
        let told = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    /// The pid of the daemon, in the machine.
    pub(crate) fn daemon(&self) -> u32 {
        pid_in(&self.status()).expect("a daemon serves")
    }

    /// What the daemon calls its build.
    pub(crate) fn build(&self) -> String {
        let status = self.status();
        status["daemon"]["party"]["build"].as_str().expect("a daemon serves").to_owned()
    }

    /// The pid of the supervisor, in the machine.
    pub(crate) fn supervisor(&self) -> u32 {
        self.property("MainPID").parse().expect("systemd says a pid")
    }

    /// A signal to one process.
    pub(crate) fn kill(&self, pid: u32, signal: Signal) {
        kill(self.machine.pid_outside(pid).expect("it runs"), signal);
    }

    /// Waits until another supervisor than that one says that a daemon serves.
    pub(crate) fn wait_for_another_supervisor(&self, than: u32) -> serde_json::Value {
        eventually("another supervisor has the daemon", TIMEOUT, || {
            let is_active = self.systemctl("is-active").status.success();
            let own = self.supervisor();
            let output = self.handoff(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let serves = status["daemon"]["state"] == "serving";
            (is_active && own != 0 && own != than && serves).then_some(status)
        })
    }

    pub(crate) fn clients(&self) -> Clients {
        Clients::start(self.port, 4)
    }

    /// Ends the clients: not one of their requests has failed, and no write is lost.
    pub(crate) fn assert_unharmed(&self, clients: Clients) {
        clients.wait_for_progress();
        clients.stop().assert_failed_only_within(&[]);
    }

    /// Processes in the cgroup of the service, by their pids outside.
    pub(crate) fn processes(&self) -> Vec<String> {
        let path = format!("/sys/fs/cgroup/system.slice/system-handoff.slice/{}", self.service());
        let text = std::fs::read_to_string(self.machine.path(&path).join("cgroup.procs"));
        text.unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// The pid of the daemon in what `handoff status --json` says.
pub(crate) fn pid_in(status: &serde_json::Value) -> Option<u32> {
    u32::try_from(status["daemon"]["party"]["pid"].as_u64()?).ok()
}

impl Drop for Instance {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}:\n{}", self.service(), self.journal());
        }
        let units = [self.socket(), self.service()];
        for unit in &units {
            let _ = self.machine.output(&["systemctl", "stop", unit]);
            // What a supervisor left that was killed.
            let kill = ["systemctl", "kill", "--kill-whom=all", "--signal=KILL", unit];
            let _ = self.machine.output(&kill);
        }
    }
}

static NUMBER: AtomicU16 = AtomicU16::new(10);
