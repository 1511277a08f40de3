//! A file system that behaves as Documentation/filesystems/resctrl.rst says of resctrl, for machines without Intel RDT:
//! making a directory makes a group with its files, `schemata` takes what names its resources, `tasks` moves a process,
//! removing a group gives its processes back. A plain directory tree would not do, for no file would appear in a new
//! directory. It is served over /dev/fuse by a thread of the harness, and keeps a journal of what was done to it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::harness::Outcome;

/// How many classes of service there are, the default one included.
const CLOSIDS: usize = 4;

/// The `schemata` of a new group, padded as the kernel does.
const SCHEMATA: &str = "    MB:0=100;1=100\n    L3:0=7ff;1=7ff\n";

/// A mounted resctrl.
#[derive(Clone)]
pub struct Resctrl(Arc<Mutex<Groups>>);

/// A file or directory.
struct Node {
    id: u64,
    parent: u64,
    name: String,
    /// None: a directory.
    content: Option<String>,
}

struct Groups {
    nodes: Vec<Node>,
    next: u64,
    journal: Vec<String>,
}

type Answer = Result<Vec<u8>, Errno>;

const ROOT: u64 = 1;

impl Resctrl {
    /// Mounts it on a directory of this thread's mount namespace; it ends with that.
    pub fn mount(at: &Path) -> Outcome<Resctrl> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let data = format!("fd={},rootmode=40755,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("resctrl"), at, Some("fuse"), MsFlags::empty(), Some(data.as_str()))?;
        let mut groups = Groups { nodes: Vec::new(), next: ROOT, journal: Vec::new() };
        groups.add(0, "", None);
        let info = groups.add(ROOT, "info", None);
        groups.add(info, "last_cmd_status", Some("ok\n"));
        groups.make_group(ROOT, true);
        let resctrl = Resctrl(Arc::new(Mutex::new(groups)));
        let served = resctrl.clone();
        std::thread::spawn(move || served.serve(&device));
        Ok(resctrl)
    }

    /// What has been done since the last time, in order: `mkdir PATH`, `rmdir PATH`, `PATH < TEXT`.
    pub fn journal(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().journal)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Groups> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers requests until the file system is unmounted.
    fn serve(&self, mut device: &File) {
        let mut buffer = vec![0_u8; 1 << 17];
        loop {
            let length = match device.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
                Err(_) => continue,
            };
            let request = Request(&buffer[..length]);
            let Some(answer) = self.lock().answer(&request) else { continue };
            let (error, payload) = match answer {
                Ok(payload) => (0, payload),
                Err(errno) => (-(errno as i32), Vec::new()),
            };
            let length = u32::try_from(16 + payload.len()).unwrap_or(16);
            let mut reply = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &request.long(8).to_ne_bytes()].concat();
            reply.extend(payload);
            // A request that was interrupted wants no answer any more.
            let _ = device.write(&reply);
        }
    }
}

/// What the kernel asks: `struct fuse_in_header` of 40 bytes, then what belongs to the operation.
struct Request<'r>(&'r [u8]);

impl Request<'_> {
    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn text(&self, at: usize) -> String {
        String::from_utf8_lossy(&self.0[at..]).trim_end_matches('\0').to_owned()
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

impl Groups {
    /// The operations of linux/fuse.h, by number; None: no answer is wanted.
    fn answer(&mut self, request: &Request<'_>) -> Option<Answer> {
        let (operation, node) = (request.word(4), request.long(16));
        Some(match operation {
            1 => self.lookup(node, &request.text(40)),
            // FORGET, INTERRUPT, BATCH_FORGET
            2 | 36 | 42 => return None,
            // SETATTR comes with O_TRUNC only.
            3 | 4 => self.attributes(node).map(|attributes| [longs(&[0, 0]), attributes].concat()),
            9 => self.mkdir(node, &request.text(48)),
            11 => self.rmdir(node, &request.text(40)),
            // Direct I/O: each read asks, each write arrives as it was made.
            14 | 27 => Ok([longs(&[0]), words(&[1, 0])].concat()),
            15 => self.read(node, request.long(48), request.word(56)),
            16 => {
                let text = String::from_utf8_lossy(&request.0[80..]).into_owned();
                self.write(node, &text).map(|()| words(&[u32::try_from(text.len()).unwrap_or(0), 0]))
            }
            // RELEASE, FLUSH, RELEASEDIR, ACCESS, DESTROY
            18 | 25 | 29 | 34 | 38 => Ok(Vec::new()),
            // INIT: version 7.31, and the longest write.
            26 => Ok([words(&[7, 31, 0, 0, 0, 1 << 16, 1, 0]), vec![0; 32]].concat()),
            28 => self.readdir(node, request.long(48)),
            _ => Err(Errno::ENOSYS),
        })
    }

    fn add(&mut self, parent: u64, name: &str, content: Option<&str>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.nodes.push(Node { id, parent, name: name.to_owned(), content: content.map(str::to_owned) });
        id
    }

    /// The files of a group, which is a class of service or only measured.
    fn make_group(&mut self, directory: u64, class: bool) {
        self.add(directory, "tasks", Some(""));
        if class {
            self.add(directory, "schemata", Some(SCHEMATA));
            self.add(directory, "mon_groups", None);
        }
    }

    fn node(&self, id: u64) -> Result<&Node, Errno> {
        self.nodes.iter().find(|node| node.id == id).ok_or(Errno::ESTALE)
    }

    fn child(&self, parent: u64, name: &str) -> Result<&Node, Errno> {
        self.nodes.iter().find(|node| node.parent == parent && node.name == name).ok_or(Errno::ENOENT)
    }

    fn path(&self, id: u64) -> String {
        match self.node(id) {
            Ok(node) if id != ROOT => format!("{}/{}", self.path(node.parent), node.name),
            _ => String::new(),
        }
    }

    fn attributes(&self, id: u64) -> Answer {
        let (size, mode, links) = match &self.node(id)?.content {
            Some(content) => (content.len() as u64, libc::S_IFREG | 0o644, 1),
            None => (0, libc::S_IFDIR | 0o755, 2),
        };
        Ok([longs(&[id, size, 0, 0, 0, 0]), words(&[0, 0, 0, mode, links, 0, 0, 0, 4096, 0])].concat())
    }

    fn entry(&self, id: u64) -> Answer {
        Ok([longs(&[id, 0, 0, 0]), words(&[0, 0]), self.attributes(id)?].concat())
    }

    fn lookup(&self, parent: u64, name: &str) -> Answer {
        self.entry(self.child(parent, name)?.id)
    }

    fn read(&self, id: u64, offset: u64, size: u32) -> Answer {
        let node = self.node(id)?;
        let mut content = node.content.clone().ok_or(Errno::EISDIR)?;
        if node.name == "tasks" {
            // Who has ended is in no group.
            let living = content.lines().filter(|pid| Path::new("/proc").join(pid).exists());
            content = living.map(|pid| format!("{pid}\n")).collect();
        }
        let content = content.as_bytes();
        let from = content.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        Ok(content[from..content.len().min(from + size as usize)].to_vec())
    }

    fn readdir(&self, id: u64, offset: u64) -> Answer {
        let mut entries = Vec::new();
        for (index, node) in self.nodes.iter().filter(|node| node.parent == id).enumerate() {
            let position = index as u64 + 1;
            if position > offset {
                let kind = if node.content.is_some() { libc::DT_REG } else { libc::DT_DIR };
                entries.extend(longs(&[node.id, position]));
                entries.extend(words(&[u32::try_from(node.name.len()).unwrap_or(0), u32::from(kind)]));
                entries.extend(node.name.as_bytes());
                entries.resize(entries.len().next_multiple_of(8), 0);
            }
        }
        Ok(entries)
    }

    /// The directories in which groups are: the root and every `mon_groups`.
    fn mkdir(&mut self, parent: u64, name: &str) -> Answer {
        if self.child(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let class = parent == ROOT;
        if !class && self.node(parent)?.name != "mon_groups" {
            return Err(Errno::EPERM);
        }
        if class && self.nodes.iter().filter(|node| node.name == "schemata").count() >= CLOSIDS {
            return self.refuse(Errno::ENOSPC, "Out of CLOSIDs");
        }
        let id = self.add(parent, name, None);
        self.make_group(id, class);
        self.journal.push(format!("mkdir {}", self.path(id)));
        self.entry(id)
    }

    fn rmdir(&mut self, parent: u64, name: &str) -> Answer {
        let id = self.child(parent, name)?.id;
        if self.child(id, "tasks").is_err() {
            return Err(Errno::EPERM);
        }
        self.journal.push(format!("rmdir {}", self.path(id)));
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            self.nodes.retain(|node| node.id != id);
            gone.extend(self.nodes.iter().filter(|node| node.parent == id).map(|node| node.id));
        }
        Ok(Vec::new())
    }

    fn refuse<T>(&mut self, errno: Errno, status: &str) -> Result<T, Errno> {
        let status = format!("{status}\n");
        for node in self.nodes.iter_mut().filter(|node| node.name == "last_cmd_status") {
            node.content = Some(status.clone());
        }
        Err(errno)
    }

    fn write(&mut self, id: u64, text: &str) -> Result<(), Errno> {
        let node = self.node(id)?;
        let (name, group) = (node.name.clone(), node.parent);
        self.journal.push(format!("{} < {}", self.path(id), text.trim_end()));
        match name.as_str() {
            "schemata" => self.write_schemata(id, text),
            "tasks" => self.write_tasks(group, text),
            _ => Err(Errno::EPERM),
        }
    }

    fn write_schemata(&mut self, id: u64, text: &str) -> Result<(), Errno> {
        let mut content = self.node(id)?.content.clone().unwrap_or_default();
        for line in text.strip_suffix('\n').ok_or(Errno::EINVAL)?.lines() {
            let (resource, values) = line.split_once(':').ok_or(Errno::EINVAL)?;
            let Some(current) = content.lines().find(|line| line.trim_start().starts_with(&format!("{resource}:")))
            else {
                return self.refuse(Errno::EINVAL, &format!("Unknown or unsupported resource name '{resource}'"));
            };
            let mut changed = current.to_owned();
            for (domain, value) in values.split(';').filter_map(|pair| pair.split_once('=')) {
                let at = changed.find(&format!("{domain}=")).ok_or(Errno::EINVAL)? + domain.len() + 1;
                let end = changed[at..].find(';').map_or(changed.len(), |end| at + end);
                changed.replace_range(at..end, value);
            }
            content = content.replace(current, &changed);
        }
        for node in self.nodes.iter_mut().filter(|node| node.id == id) {
            node.content = Some(content.clone());
        }
        Ok(())
    }

    /// A process is in one class, and may be in one group of measurement of that class.
    fn write_tasks(&mut self, group: u64, text: &str) -> Result<(), Errno> {
        let pid = text.trim();
        let measured = self.node(self.node(group)?.parent).is_ok_and(|parent| parent.name == "mon_groups");
        if measured {
            let class = self.node(self.node(group)?.parent)?.parent;
            let tasks = self.child(class, "tasks")?.content.clone().unwrap_or_default();
            if !tasks.lines().any(|task| task == pid) {
                return self.refuse(Errno::EINVAL, "Can't move task to different control group");
            }
        }
        for node in self.nodes.iter_mut().filter(|node| node.name == "tasks") {
            let Some(tasks) = &mut node.content else { continue };
            if !measured {
                *tasks = tasks.lines().filter(|task| *task != pid).map(|task| format!("{task}\n")).collect();
            }
            if node.parent == group {
                *tasks = format!("{tasks}{pid}\n");
            }
        }
        Ok(())
    }
}
