//! Capabilities: the five sets of the configuration as bit masks, and how they are applied around the change of user.

use crate::error::{Context, Error, Result};
use crate::log;
use crate::sys;
use caps::Capability;
use nix::errno::Errno;
use oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// One bit for each capability, bit 0 being CAP_CHOWN (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// Whether this version knows a capability by this name, in any of the forms that oci-spec takes.
pub fn is_known(name: &str) -> bool {
    serde_json::from_value::<oci_spec::runtime::Capability>(name.into()).is_ok()
}

fn mask(set: Option<&Capabilities>) -> u64 {
    // oci-spec prints SYS_ADMIN where caps reads CAP_SYS_ADMIN.
    let bit = |cap: &oci_spec::runtime::Capability| format!("CAP_{cap}").parse::<Capability>().map(|cap| cap.bitmask());
    set.into_iter().flatten().filter_map(|cap| bit(cap).ok()).fold(0, |mask, bit| mask | bit)
}

/// The names of a set, for people.
fn names(set: u64) -> String {
    let mut all: Vec<Capability> = caps::all().into_iter().filter(|cap| cap.bitmask() & set != 0).collect();
    all.sort_by_key(Capability::index);
    all.iter().map(Capability::to_string).collect::<Vec<_>>().join(", ")
}

/// Takes what is impossible out of a set, with a warning that says why.
fn take_out(set: &mut u64, possible: u64, what: &str) {
    let impossible = *set & !possible;
    if impossible != 0 {
        log::warning(&format!("cannot make {} {what}", names(impossible)));
        *set &= possible;
    }
}

impl CapabilitySets {
    /// The sets of a configuration.
    pub fn new(sets: &LinuxCapabilities) -> CapabilitySets {
        CapabilitySets {
            bounding: mask(sets.bounding().as_ref()),
            effective: mask(sets.effective().as_ref()),
            inheritable: mask(sets.inheritable().as_ref()),
            permitted: mask(sets.permitted().as_ref()),
            ambient: mask(sets.ambient().as_ref()),
        }
    }

    /// Takes out what is not among those that the runtime can give, with a warning: a capability that cannot be granted is
    /// no reason to fail (config.md: capabilities).
    pub fn grantable(mut self, permitted: u64) -> CapabilitySets {
        let wanted = self.bounding | self.effective | self.inheritable | self.permitted | self.ambient;
        let missing = wanted & !permitted;
        if missing != 0 {
            log::warning(&format!("cannot grant {}: the runtime does not have it", names(missing)));
        }
        for set in
            [&mut self.bounding, &mut self.effective, &mut self.inheritable, &mut self.permitted, &mut self.ambient]
        {
            *set &= permitted;
        }
        // capset(2) and capabilities(7); what is inheritable comes before what is ambient.
        let CapabilitySets { bounding, permitted, .. } = self;
        take_out(&mut self.effective, permitted, "effective: not permitted");
        take_out(&mut self.inheritable, bounding, "inheritable: not in the bounding set");
        take_out(&mut self.ambient, permitted & self.inheritable, "ambient: not permitted and inheritable");
        self
    }

    /// Drops everything else from the bounding set; needs CAP_SETPCAP, so it comes before the change of user.
    pub fn apply_bounding(&self) -> Result<()> {
        for capability in 0..64 {
            if self.bounding & 1 << capability != 0 {
                continue;
            }
            match sys::drop_bounding(capability) {
                // The first number that the kernel does not know is the end of its list.
                Err(Errno::EINVAL) => break,
                other => other.context(|| format!("prctl(PR_CAPBSET_DROP, {capability})"))?,
            }
        }
        Ok(())
    }

    /// Sets the three sets at once, then the ambient set one by one.
    pub fn apply(&self) -> Result<()> {
        sys::capset(self.effective, self.permitted, self.inheritable).context(|| {
            format!(
                "capset(effective {:#x}, permitted {:#x}, inheritable {:#x})",
                self.effective, self.permitted, self.inheritable
            )
        })?;
        for capability in (0..64).filter(|capability| self.ambient & 1 << capability != 0) {
            sys::raise_ambient(capability).map_err(|errno| {
                Error::from(errno)
                    .context(format!("prctl(PR_CAP_AMBIENT_RAISE, {capability})"))
                    .hint("an ambient capability must be permitted and inheritable too")
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bits() {
        let sets: LinuxCapabilities =
            serde_json::from_str(r#"{"bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"], "effective": ["CAP_KILL"]}"#)
                .unwrap();
        let sets = CapabilitySets::new(&sets);
        assert_eq!((sets.bounding, sets.effective, sets.permitted), (1 | 1 << 40, 1 << 5, 0));
        assert!(is_known("CAP_BPF") && !is_known("CAP_TEST"));
    }

    #[test]
    fn what_no_kernel_would_grant_is_taken_out() {
        let sets = CapabilitySets {
            bounding: 0b0011,
            effective: 0b1010,
            inheritable: 0b0110,
            permitted: 0b0111,
            ambient: 0b1111,
        };
        let granted = CapabilitySets {
            bounding: 0b0011,
            effective: 0b0010,
            inheritable: 0b0010,
            permitted: 0b0111,
            ambient: 0b0010,
        };
        assert_eq!(sets.grantable(0b1111), granted);
    }
}
