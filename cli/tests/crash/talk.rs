//! Two guests that talk, every byte checked and every silence timed.

use super::blows::{Network, Silences};
use super::support::{Guest, PATIENCE, compile, eventually};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) fn talker() -> PathBuf {
    compile("crash-talker", include_str!("talker.c"), &[])
}

pub(crate) fn run(network: &Network, name: &str, program: &[&str]) -> Guest {
    Guest::start(&[&["--cpus", "1", "--net", &network.0, "--name", name], program].concat())
}

/// Two guests that talk until they are told to end.
pub(crate) struct Talk {
    pub(crate) server: Guest,
    client: Guest,
    kind: &'static str,
}

impl Talk {
    /// Talks for so long.
    pub(crate) fn start(network: &Network, kind: &'static str, ms: u64) -> Talk {
        let talker = talker();
        let talker = talker.to_str().unwrap();
        let name = format!("{kind}-echo");
        let server = run(network, &name, &[talker, "echo", "7"]);
        assert!(eventually(PATIENCE, || server.output().contains("ready")), "{}", server.output());
        let ms = ms.to_string();
        let client = run(network, &format!("{kind}-client"), &[talker, kind, &name, "7", &ms]);
        assert!(eventually(PATIENCE, || client.output().contains("talking")), "{}", client.output());
        Talk { server, client, kind }
    }

    /// Tells it to end, and [`Talk::end`].
    pub(crate) fn end_now(&mut self) -> Silences {
        self.client.signal(libc::SIGTERM);
        self.finish()
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn end(mut self) -> Silences {
        self.finish()
    }

    fn finish(&mut self) -> Silences {
        assert!(eventually(Duration::from_secs(600), || self.client.ended()), "the client talks for ever");
        let status = self.client.wait();
        let output = self.client.output();
        let (kind, last) = (self.kind, output.lines().last().unwrap_or_default());
        let said = self.server.output();
        assert!(status.success() && last.contains("checked"), "{kind}: {status}: {last}\n{said}");
        println!("{kind}: {last}");
        assert!(said.lines().all(|line| line == "ready" || line.starts_with("attacca: ")), "{said}");
        Silences::read(&output)
    }
}
