//! RUN's `--mount`: its grammar, and what it means once its variables have values.

use super::ast::{MountFlag, MountOption, Word};
use super::flags::Flag;
use super::nearest;
use super::span::{Problem, Span};

/// What a RUN sees besides its file system. Targets may be relative to the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    Bind {
        target: String,
        /// Below the root of `from`.
        source: String,
        /// A stage, a named context or an image; `None` is the build context.
        from: Option<String>,
        /// What is written is thrown away at the end.
        writable: bool,
    },
    Cache {
        id: String,
        target: String,
        readonly: bool,
        sharing: Sharing,
        /// What a new cache begins with; `None` is an empty folder.
        from: Option<String>,
        source: String,
        owner: Owner,
    },
    Tmpfs {
        target: String,
        /// In bytes.
        size: Option<u64>,
    },
    Secret {
        id: String,
        /// `None`: only the variable.
        target: Option<String>,
        /// The variable that has it.
        env: Option<String>,
        required: bool,
        owner: Owner,
    },
    Ssh {
        id: String,
        /// `None`: wherever the builder likes.
        target: Option<String>,
        required: bool,
        owner: Owner,
    },
}

/// Of a cache, a secret's file, a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What a second writer of a cache gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    /// The same folder, at once.
    #[default]
    Shared,
    /// A folder of its own.
    Private,
    /// The same folder, when the first has done.
    Locked,
}

/// Kinds, and the keys that each has. Aliases are replaced before: see [`canonical`].
const KINDS: &[(&str, &[&str])] = &[
    ("bind", &["target", "source", "from", "rw", "ro"]),
    ("cache", &["id", "target", "ro", "rw", "sharing", "from", "source", "mode", "uid", "gid"]),
    ("tmpfs", &["target", "size"]),
    ("secret", &["id", "target", "env", "required", "mode", "uid", "gid"]),
    ("ssh", &["id", "target", "required", "mode", "uid", "gid"]),
];

/// Keys that may stand without a value.
const SWITCHES: &[&str] = &["ro", "rw", "required"];

fn canonical(key: &str) -> &str {
    match key {
        "dst" | "destination" => "target",
        "src" => "source",
        "readonly" => "ro",
        "readwrite" => "rw",
        other => other,
    }
}

/// Reads the flag. What holds no variables is checked to the end.
pub(super) fn parse(flag: &Flag<'_>) -> Result<MountFlag, Problem> {
    let text = flag.value.as_deref().unwrap_or_default();
    // Only where nothing was unquoted are offsets in the value offsets in the file.
    let exact = flag.written.text() == text;
    let mut options = Vec::new();
    let mut at = 0;
    for field in text.split(',') {
        let (start, end) = (at, at + field.len());
        at = end + 1;
        let span = |from: usize, to: usize| {
            if exact { flag.written.sub(from, to).span() } else { flag.part.span() }
        };
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let word = value.map(|value| Word { text: value.to_owned(), span: span(end - value.len(), end) });
        options.push(MountOption { key: key.trim().to_lowercase(), value: word, span: span(start, end) });
    }
    let mount = MountFlag { span: flag.part.span(), options };
    check_keys(&mount)?;
    let variable = |option: &MountOption| option.value.as_ref().is_some_and(|word| word.text.contains('$'));
    if let Some(option) = mount
        .options
        .iter()
        .find(|option| ["from", "type"].contains(&option.key.as_str()) && variable(option))
    {
        return Err(Problem::new(
            option.span,
            format!("'{}' doesn't support variable expansion, define alias stage instead", option.key),
            "write FROM $VARIABLE AS name before, with an ARG in front of the first FROM, and from=name here",
        ));
    }
    if !mount.options.iter().any(variable) {
        resolve(&mount, &mut |word| Ok(word.text.clone()))?;
    }
    Ok(mount)
}

fn kind_of(mount: &MountFlag) -> &str {
    let kind = mount.options.iter().find(|option| option.key == "type");
    kind.and_then(|option| option.value.as_ref()).map_or("bind", |word| word.text.as_str())
}

fn check_keys(mount: &MountFlag) -> Result<(), Problem> {
    let kind = kind_of(mount);
    let Some((_, keys)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        return Err(Problem::new(
            mount.span,
            format!("unsupported mount type {kind:?}"),
            "the types are bind, cache, tmpfs, secret and ssh",
        ));
    };
    for option in mount.options.iter().filter(|option| option.key != "type") {
        let key = canonical(&option.key);
        if !keys.contains(&key) {
            let hint =
                nearest(&option.key, keys.iter().copied()).map(|key| format!(" (did you mean {key}?)"));
            let message = format!("unexpected key '{}' for mount type '{kind}'", option.key);
            return Err(Problem::new(
                option.span,
                message + &hint.unwrap_or_default(),
                format!("its keys are {}", keys.join(", ")),
            ));
        }
        if option.value.is_none() && !SWITCHES.contains(&key) {
            return Err(Problem::new(
                option.span,
                format!("invalid field '{}' must be a key=value pair", option.key),
                format!("write {}=VALUE", option.key),
            ));
        }
    }
    Ok(())
}

/// The options by key, with their values.
struct Values {
    whole: Span,
    options: Vec<(String, Span, Option<String>)>,
}

impl Values {
    /// The last one with a value that is not empty.
    fn text(&self, key: &str) -> Option<(&str, Span)> {
        let mut found = self.options.iter().rev().filter(|(name, _, _)| name == key);
        found.find_map(|(_, span, value)| value.as_deref().filter(|v| !v.is_empty()).map(|v| (v, *span)))
    }

    fn string(&self, key: &str) -> Option<String> {
        self.text(key).map(|(text, _)| text.to_owned())
    }

    fn switch(&self, key: &str) -> Result<Option<bool>, Problem> {
        let Some((_, span, value)) = self.options.iter().rev().find(|(name, _, _)| name == key) else {
            return Ok(None);
        };
        match value.as_deref().unwrap_or("true").to_lowercase().as_str() {
            "true" | "1" | "" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            other => {
                Err(Problem::new(*span, format!("invalid value for {key}: {other}"), "write true or false"))
            }
        }
    }

    fn number(&self, key: &str, radix: u32) -> Result<Option<u32>, Problem> {
        let Some((text, span)) = self.text(key) else { return Ok(None) };
        let what = if radix == 8 { "an octal number such as 0755" } else { "a number" };
        let number = u32::from_str_radix(text, radix);
        let problem =
            || Problem::new(span, format!("invalid value {text} for {key}"), format!("write {what}"));
        number.map(Some).map_err(|_| problem())
    }

    fn owner(&self, mode: u32) -> Result<Owner, Problem> {
        Ok(Owner {
            mode: self.number("mode", 8)?.unwrap_or(mode),
            uid: self.number("uid", 10)?.unwrap_or(0),
            gid: self.number("gid", 10)?.unwrap_or(0),
        })
    }

    fn target(&self) -> Result<String, Problem> {
        self.string("target").ok_or_else(|| {
            Problem::new(
                self.whole,
                "mount target is required",
                "add target=PATH, the place where it is seen",
            )
        })
    }

    fn size(&self) -> Result<Option<u64>, Problem> {
        let Some((text, span)) = self.text("size") else { return Ok(None) };
        bytes(text).map(Some).ok_or_else(|| {
            Problem::new(
                span,
                format!("invalid value for size: {text}"),
                "write bytes, or a number with k, m or g",
            )
        })
    }

    fn sharing(&self) -> Result<Sharing, Problem> {
        match self.text("sharing") {
            None | Some(("shared", _)) => Ok(Sharing::Shared),
            Some(("private", _)) => Ok(Sharing::Private),
            Some(("locked", _)) => Ok(Sharing::Locked),
            Some((other, span)) => Err(Problem::new(
                span,
                format!("unsupported sharing value {other:?}"),
                "write shared, private or locked",
            )),
        }
    }
}

/// What the flag means. `value` expands the variables of one word.
pub fn resolve(
    flag: &MountFlag,
    value: &mut dyn FnMut(&Word) -> Result<String, Problem>,
) -> Result<Mount, Problem> {
    let mut options = Vec::new();
    for option in &flag.options {
        let text = option.value.as_ref().map(&mut *value).transpose()?;
        options.push((canonical(&option.key).to_owned(), option.span, text));
    }
    let values = Values { whole: flag.span, options };
    let source = values.string("source").unwrap_or_else(|| "/".to_owned());
    let required = values.switch("required")?.unwrap_or(false);
    Ok(match kind_of(flag) {
        "cache" => {
            let target = values.target()?;
            Mount::Cache {
                id: values.string("id").unwrap_or_else(|| target.clone()),
                target,
                readonly: values.switch("ro")?.unwrap_or(values.switch("rw")? == Some(false)),
                sharing: values.sharing()?,
                from: values.string("from"),
                source,
                owner: values.owner(0o755)?,
            }
        }
        "tmpfs" => Mount::Tmpfs { target: values.target()?, size: values.size()? },
        "secret" => secret(&values, required)?,
        "ssh" => Mount::Ssh {
            id: values.string("id").unwrap_or_else(|| "default".to_owned()),
            target: values.string("target"),
            required,
            owner: values.owner(0o600)?,
        },
        _ => Mount::Bind {
            target: values.target()?,
            source,
            from: values.string("from"),
            writable: values.switch("rw")?.unwrap_or(values.switch("ro")? == Some(false)),
        },
    })
}

fn secret(values: &Values, required: bool) -> Result<Mount, Problem> {
    let (target, env) = (values.string("target"), values.string("env"));
    let base = target.as_deref().and_then(|target| target.rsplit('/').find(|name| !name.is_empty()));
    let Some(id) = values.string("id").or_else(|| base.map(str::to_owned)) else {
        return Err(Problem::new(
            values.whole,
            "one of id, target required for mount type secret",
            "add id=NAME, the name that --secret gives it",
        ));
    };
    let target = match (target, &env) {
        (None, None) => Some(format!("/run/secrets/{id}")),
        (target, _) => target,
    };
    Ok(Mount::Secret { id, target, env, required, owner: values.owner(0o400)? })
}

/// `64m` and the like, with factors of 1024 as `--memory` has.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_lowercase();
    let text = text.strip_suffix("ib").or_else(|| text.strip_suffix('b')).unwrap_or(&text);
    let (digits, shift) = match text.char_indices().last()? {
        (end, 'k') => (&text[..end], 10),
        (end, 'm') => (&text[..end], 20),
        (end, 'g') => (&text[..end], 30),
        (end, 't') => (&text[..end], 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
