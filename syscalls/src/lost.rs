//! Sockets that nobody has any more, though the engine keeps them for somebody; files of a tmpfs and descriptors of the
//! host likewise.
//!
//! A process that the host kills in the middle of a call keeps the counts that the call had in its frame (`stay.rs`
//! tells those of calls that sleep). A socket that was being used or closed just then would stay open for ever, and
//! its peer would wait. So after such a death the engine's sockets are compared with what descriptors, messages and
//! sleeping calls refer to: what nothing refers to, and a second later still nothing, is closed.
//!
//! A file of a tmpfs without a name has its bytes in memory, or in a descriptor of the host, as long as somebody has it.
//! It is looked for in the same way, and loses its bytes. So is a descriptor of the host that nobody accounts for; here
//! nothing is left to time (`hands.rs`).
//!
//! The engine itself is put right first: it may have been in the middle of anything (`net/src/engine/audit.rs`).
//!
//! One look would not do: living calls, too, have sockets in their hands that are in no table, while they make them or
//! after another thread has closed them. They have them for microseconds, and if one did for longer (its host process
//! was stopped), it would meet a closed socket, not freed memory: objects are left alone here.
//!
//! Left out: those objects (some hundred bytes each), ports that were claimed at the supervisor (`net_claim.rs`), and
//! what else can be in a call's hands: ends of pipes and AF_UNIX sockets are there for a few instructions, where the
//! engine's sockets are for as long as its lock is waited for.

use crate::file::OpenFile;
use crate::inet_socket::InetSocket;
use crate::net_poll;
use crate::process::root;
use crate::rt;
use crate::tree_file::InnerFile;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use fs::{Node, Vnode, ramfs};
use net::SocketId;
use platform::sync::Lock;
use platform::time::{self, Instant, SECOND};

/// Between two looks.
const APART_NS: u64 = SECOND;

/// The search for them.
#[derive(Default)]
pub(crate) struct Search(Lock<State>);

#[derive(Default)]
struct State {
    /// When the last look was to be, or the next one is.
    due: Option<Instant>,
    /// When the last look was.
    looked: Option<Instant>,
    /// What nothing referred to at the last look.
    suspects: Vec<Suspect>,
    /// After that look.
    moment: rt::Moment,
}

/// A thing that nothing refers to.
#[derive(Clone, PartialEq)]
enum Suspect {
    Socket(SocketId, u64),
    /// By its identity in its file system.
    File(u64, u64),
    /// A host descriptor, and what the account says of it.
    Descriptor(i32, u64),
}

impl Search {
    /// A process was killed from outside: looks soon. It may have been the one that was to look, or that looked just now:
    /// so only a look that is still ahead will do, and the timer is there before it is told.
    pub(crate) fn begin(self: &Arc<Search>) {
        let now = time::now();
        if self.0.lock().due.is_none_or(|due| due <= now) {
            let due = now.after(APART_NS);
            rt::timer_add(due, self.clone());
            self.0.lock().due = Some(due);
        }
    }
}

impl rt::Expire for Search {
    fn expire(&self, now: Instant) {
        {
            // Two may have been armed at once. What the other suspected a moment ago is not looked at again yet, but
            // it may have relied on this look.
            let mut state = self.0.lock();
            if state.looked.is_some_and(|looked| now < looked.after(APART_NS / 2)) {
                drop(state);
                return root().lost.begin();
            }
            state.looked = Some(now);
        }
        let things = Things::all();
        let mut unreferred = things.unreferred();
        let unaccounted = root().hands.unaccounted();
        unreferred.extend(unaccounted.into_iter().map(|(fd, word)| Suspect::Descriptor(fd, word)));
        let moment = rt::Moment::now();
        let mut lost = Vec::new();
        let again = {
            let mut state = self.0.lock();
            let before = core::mem::take(&mut state.suspects);
            let is_over = core::mem::replace(&mut state.moment, moment).is_over();
            let is_lost = |thing: &Suspect| {
                before.contains(thing) && (is_over || !matches!(thing, Suspect::Descriptor(..)))
            };
            for thing in unreferred {
                if is_lost(&thing) { lost.push(thing) } else { state.suspects.push(thing) }
            }
            !state.suspects.is_empty()
        };
        lost.into_iter().for_each(|thing| things.give_up(&thing));
        // What the audit found is sent, and told to owners.
        net_poll::poll();
        if again {
            root().lost.begin();
        }
    }
}

/// What may be lost.
struct Things {
    sockets: Vec<(SocketId, u64)>,
    files: Vec<Arc<dyn Vnode>>,
}

impl Things {
    /// All of them, and the engine put right. Asked for before what refers to them: one that is made meanwhile is not
    /// among them.
    fn all() -> Things {
        let mut sockets = Vec::new();
        net_poll::each(|stack| {
            stack.shard.audit(time::now());
            sockets.extend(stack.owned());
        });
        Things { sockets, files: unnamed_files() }
    }

    fn unreferred(&self) -> Vec<Suspect> {
        let mut sockets = BTreeSet::new();
        let mut files = BTreeSet::new();
        let mut see = |open: &OpenFile| {
            if let Some(socket) = open.downcast::<InetSocket>() {
                sockets.extend(socket.names());
            }
            if let Some(file) = open.downcast::<InnerFile>() {
                files.insert(address(&file.node));
            }
        };
        for process in root().processes() {
            for fd in process.fds.numbers() {
                process.fds.get(fd).iter().for_each(|open| see(open));
            }
            process.tasks().iter().for_each(|task| task.stay.each_file(&mut see));
        }
        root().in_flight.files().iter().for_each(|open| see(open));
        for process in root().processes() {
            let exe = process.image.lock().exe.clone();
            if let Some(Node::Inner(node)) = exe.map(|place| place.node) {
                files.insert(address(&node));
            }
        }
        let lost =
            |(id, cookie): &(SocketId, u64)| (!sockets.contains(id)).then_some(Suspect::Socket(*id, *cookie));
        let unread = |node: &Arc<dyn Vnode>| (!files.contains(&address(node))).then(|| suspect(node));
        self.sockets.iter().filter_map(lost).chain(self.files.iter().filter_map(unread)).collect()
    }

    fn give_up(&self, thing: &Suspect) {
        match *thing {
            Suspect::Socket(id, cookie) => net_poll::close_lost(id, cookie),
            Suspect::Descriptor(fd, word) => root().hands.close_if(fd, word),
            Suspect::File(..) => {
                self.files.iter().filter(|node| suspect(node) == *thing).for_each(ramfs::give_up);
            }
        }
    }
}

fn address(node: &Arc<dyn Vnode>) -> usize {
    Arc::as_ptr(node).cast::<()>() as usize
}

fn suspect(node: &Arc<dyn Vnode>) -> Suspect {
    let stat = node.stat();
    Suspect::File(stat.dev, stat.ino)
}

/// Files of the guest's tmpfs mounts that have no name.
fn unnamed_files() -> Vec<Arc<dyn Vnode>> {
    let Some(view) = root().processes().iter().find_map(|process| process.view.get()) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for mount in view.tree.mounts().iter() {
        if let Node::Inner(node) = mount.place().node {
            files.extend(ramfs::unnamed(&node));
        }
    }
    files
}
