//! A network with a name, of one test; test files add what they do with it.

use super::{Guest, PATIENCE, attacca, run_limited, text};

/// Taken down when dropped.
pub struct Network(pub String);

impl Network {
    /// Starts it, with arguments of `attacca server start`.
    pub fn start(name: &str, args: &[&str]) -> Network {
        let name = format!("{name}-{}", std::process::id());
        text(run_limited(attacca().args(["server", "start", "--net", &name]).args(args), PATIENCE));
        Network(name)
    }

    /// `attacca server ACTION`.
    pub fn say(&self, action: &str) {
        text(run_limited(attacca().args(["server", action, "--net", &self.0]), PATIENCE));
    }

    /// What it says of itself.
    pub fn status(&self) -> serde_json::Value {
        let mut command = attacca();
        let words =
            text(run_limited(command.args(["server", "status", "--json", "--net", &self.0]), PATIENCE));
        assert!(words.starts_with("{\"pid\":"), "{words}");
        serde_json::from_str(&words).unwrap()
    }

    /// A guest on it.
    pub fn run(&self, name: &str, args: &[&str], program: &[&str]) -> Guest {
        let head = ["--cpus", "1", "--net", &self.0, "--name", name];
        Guest::start(&[&head, args, program].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = attacca().args(["server", "stop", "--net", &self.0]).output();
    }
}
