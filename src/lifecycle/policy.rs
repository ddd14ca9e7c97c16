//! How long each state of a key lasts: [`Policy`], and the combinations that it refuses.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest duration that a setting may have: ten years.
pub const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The durations as a person typed them, before [`Policy::new`] has looked at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySettings {
    /// From one activation to the next; `None` means that nothing rotates by itself.
    pub rotate_every: Option<Duration>,
    /// How long a key is published before it may sign.
    pub publish_lead: Duration,
    /// How long a key stays published after it signed last.
    pub retain_for: Duration,
    /// How long a cache may hold the set: the `max-age` of `Cache-Control`.
    pub cache_max_age: Duration,
}

impl Default for PolicySettings {
    /// No rotation by itself; 25 h of lead and retention, which outlasts every verifier known to
    /// cache for a day; a minute of HTTP caching.
    fn default() -> Self {
        Self {
            rotate_every: None,
            publish_lead: DAY + 60 * MINUTE,
            retain_for: DAY + 60 * MINUTE,
            cache_max_age: MINUTE,
        }
    }
}

/// Settings that keep the promises of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy(PolicySettings);

impl Policy {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If a verifier that obeys `Cache-Control` could meet a signature whose key it cannot know
    /// (`publish_lead` or `retain_for` shorter than `cache_max_age`), if a key would be due before
    /// it may sign (`rotate_every` not longer than `publish_lead`), if `cache_max_age` is longer
    /// than a day, if a duration is longer than [`MAX_DURATION`] or zero where that makes no sense.
    pub fn new(settings: PolicySettings) -> Result<Self, PolicyError> {
        let PolicySettings { rotate_every, publish_lead, retain_for, cache_max_age } = settings;
        let named = [
            ("rotate-every", rotate_every.unwrap_or(SECOND)),
            ("publish-lead", publish_lead),
            ("retain-for", retain_for),
            ("cache-max-age", cache_max_age),
        ];
        for (name, value) in named {
            if value > MAX_DURATION {
                return Err(PolicyError::TooLong { name, value });
            }
        }
        if cache_max_age > DAY {
            return Err(PolicyError::CacheTooLong { cache_max_age });
        }
        if publish_lead < cache_max_age {
            return Err(PolicyError::LeadTooShort { publish_lead, cache_max_age });
        }
        if retain_for < cache_max_age {
            return Err(PolicyError::RetentionTooShort { retain_for, cache_max_age });
        }
        match rotate_every {
            Some(rotate_every) if rotate_every <= publish_lead || rotate_every < SECOND => {
                Err(PolicyError::PeriodTooShort { rotate_every, publish_lead })
            }
            _ => Ok(Self(settings)),
        }
    }

    /// From one activation to the next, if keys rotate by themselves.
    pub fn rotate_every(&self) -> Option<Duration> {
        self.0.rotate_every
    }

    /// How long a key is published before it may sign.
    pub fn publish_lead(&self) -> Duration {
        self.0.publish_lead
    }

    /// How long a key stays published after it signed last.
    pub fn retain_for(&self) -> Duration {
        self.0.retain_for
    }

    /// How long a cache may hold the set.
    pub fn cache_max_age(&self) -> Duration {
        self.0.cache_max_age
    }

    /// The settings that make up this policy.
    pub fn settings(&self) -> PolicySettings {
        self.0
    }

    /// What is allowed, but is known to hurt with some verifiers.
    pub fn warnings(&self) -> Vec<PolicyWarning> {
        let PolicySettings { rotate_every, publish_lead, retain_for, cache_max_age } = self.0;
        let mut warnings = Vec::new();
        if let Some(rotate_every) = rotate_every
            && 2 * rotate_every < retain_for
        {
            warnings.push(PolicyWarning::ManyKeys { rotate_every, retain_for });
        }
        let advised = cache_max_age.max(MINUTE) + 15 * SECOND;
        if publish_lead < advised {
            warnings.push(PolicyWarning::ShortLead { publish_lead, advised });
        }
        if retain_for < 10 * MINUTE {
            warnings.push(PolicyWarning::ShortRetention { retain_for });
        }
        if cache_max_age > 15 * MINUTE {
            warnings.push(PolicyWarning::LongCache { cache_max_age });
        }
        warnings
    }
}

/// Why settings make no [`Policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Longer than [`MAX_DURATION`].
    #[error("{name} {} is longer than 10 years", human(value))]
    TooLong {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: Duration,
    },
    /// `cache_max_age` is longer than a day.
    #[error(
        "cache-max-age {} is longer than 24h: a revoked key would stay in caches for as long",
        human(cache_max_age)
    )]
    CacheTooLong {
        /// The setting.
        cache_max_age: Duration,
    },
    /// A cache may not have seen a key yet when it begins to sign.
    #[error(
        "publish-lead {} is shorter than cache-max-age {}: a key would sign while caches may still \
         hold a set without it",
        human(publish_lead),
        human(cache_max_age)
    )]
    LeadTooShort {
        /// The setting.
        publish_lead: Duration,
        /// The setting that it must not fall below.
        cache_max_age: Duration,
    },
    /// A key is removed while its last signatures may still be on their way.
    #[error(
        "retain-for {} is shorter than cache-max-age {}: a key would vanish before caches have \
         seen its successor",
        human(retain_for),
        human(cache_max_age)
    )]
    RetentionTooShort {
        /// The setting.
        retain_for: Duration,
        /// The setting that it must not fall below.
        cache_max_age: Duration,
    },
    /// A rotation is due before the next key may sign.
    #[error(
        "rotate-every {} is not longer than publish-lead {}: a rotation would be due before the \
         next key may sign",
        human(rotate_every),
        human(publish_lead)
    )]
    PeriodTooShort {
        /// The setting.
        rotate_every: Duration,
        /// The setting that it must exceed.
        publish_lead: Duration,
    },
}

/// A policy that is allowed, but is known to hurt with some verifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyWarning {
    /// More than four keys are published at once.
    #[error(
        "rotate-every {} is shorter than half of retain-for {}: more than 4 keys will be published \
         at once",
        human(rotate_every),
        human(retain_for)
    )]
    ManyKeys {
        /// The setting.
        rotate_every: Duration,
        /// For how many of them a key is retained.
        retain_for: Duration,
    },
    /// Some authorization servers hold a set for a minute whatever it says.
    #[error(
        "publish-lead {} is shorter than {}: some authorization servers hold a set for a minute, \
         and reject a new key until they fetch again; 15m covers nearly all, 25h every one known",
        human(publish_lead),
        human(advised)
    )]
    ShortLead {
        /// The setting.
        publish_lead: Duration,
        /// The shortest lead that is not warned about.
        advised: Duration,
    },
    /// Assertions, clock skew and signers that reload late outlast the retention.
    #[error(
        "retain-for {} is shorter than 10m: assertions that are still valid, or signers that \
         reload the key late, will be rejected",
        human(retain_for)
    )]
    ShortRetention {
        /// The setting.
        retain_for: Duration,
    },
    /// Caches follow a dropped-in or revoked key late.
    #[error(
        "cache-max-age {} is longer than 15m: caches follow a replaced or revoked key that late",
        human(cache_max_age)
    )]
    LongCache {
        /// The setting.
        cache_max_age: Duration,
    },
}

/// `duration` as a person would type it: `25h`, `15m`, `90d`.
pub(crate) fn human(duration: &Duration) -> impl fmt::Display {
    let secs = duration.as_secs();
    if duration.subsec_nanos() == 0 {
        // The library would choose months and years; an hour more than a day reads best as `25h`.
        for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")] {
            if secs.is_multiple_of(unit) && secs >= 2 * unit || secs == unit && unit < 86_400 {
                return format!("{}{name}", secs / unit);
            }
        }
    }
    humantime::format_duration(*duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(rotate_every: u64, lead: u64, retain: u64, cache: u64) -> PolicySettings {
        PolicySettings {
            rotate_every: (rotate_every > 0).then(|| Duration::from_secs(rotate_every)),
            publish_lead: Duration::from_secs(lead),
            retain_for: Duration::from_secs(retain),
            cache_max_age: Duration::from_secs(cache),
        }
    }

    fn refusal(settings: PolicySettings) -> String {
        Policy::new(settings).unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_allowed_without_a_warning() {
        let policy = Policy::new(PolicySettings::default()).unwrap();
        assert_eq!(policy.warnings(), []);
        assert_eq!(policy.rotate_every(), None);
    }

    #[test]
    fn a_combination_that_breaks_a_promise_is_refused_with_its_reason() {
        assert_eq!(
            refusal(settings(0, 59, 60, 60)),
            "publish-lead 59s is shorter than cache-max-age 1m: a key would sign while caches may \
             still hold a set without it"
        );
        assert_eq!(
            refusal(settings(0, 60, 59, 60)),
            "retain-for 59s is shorter than cache-max-age 1m: a key would vanish before caches \
             have seen its successor"
        );
        assert_eq!(
            refusal(settings(3_600, 3_600, 3_600, 60)),
            "rotate-every 1h is not longer than publish-lead 1h: a rotation would be due before \
             the next key may sign"
        );
        assert_eq!(
            refusal(settings(0, 90_001, 90_001, 86_401)),
            "cache-max-age 86401s is longer than 24h: a revoked key would stay in caches for as \
             long"
        );
        assert_eq!(
            refusal(settings(400_000_000, 60, 60, 60)),
            "rotate-every 400000000s is longer than 10 years"
        );
    }

    #[test]
    fn the_bounds_themselves_are_allowed() {
        assert!(Policy::new(settings(0, 60, 60, 60)).is_ok());
        assert!(Policy::new(settings(61, 60, 60, 60)).is_ok());
        assert!(Policy::new(settings(0, 86_400, 86_400, 86_400)).is_ok());
        assert!(Policy::new(settings(0, 0, 0, 0)).is_ok());
    }

    #[test]
    fn short_durations_are_allowed_with_a_warning_each() {
        let policy = Policy::new(settings(20, 15, 41, 1)).unwrap();
        assert!(matches!(
            policy.warnings()[..],
            [
                PolicyWarning::ManyKeys { .. },
                PolicyWarning::ShortLead { .. },
                PolicyWarning::ShortRetention { .. }
            ]
        ));
        let policy = Policy::new(settings(0, 3_600, 3_600, 901)).unwrap();
        assert!(matches!(policy.warnings()[..], [PolicyWarning::LongCache { .. }]));
    }

    #[test]
    fn durations_read_as_a_person_would_type_them() {
        let shown = |secs| human(&Duration::from_secs(secs)).to_string();
        assert_eq!(shown(90_000), "25h");
        assert_eq!(shown(86_400), "24h");
        assert_eq!(shown(90 * 86_400), "90d");
        assert_eq!(shown(900), "15m");
        assert_eq!(shown(61), "61s");
        assert_eq!(shown(0), "0s");
        assert_eq!(human(&Duration::from_millis(1_500)).to_string(), "1s 500ms");
    }
}
