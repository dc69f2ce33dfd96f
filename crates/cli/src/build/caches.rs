//! `--cache-to` and `--cache-from`: what builds remember, to and from elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use hull_api::build::{Begin, CacheFrom, Form, Output};

use super::context::Context;
use super::offer::Source;
use super::outputs::Place;
use crate::command::{Failure, fail};
use crate::session::say;

/// Where a cache goes.
#[derive(Debug, PartialEq, Eq)]
enum To {
    /// Into the image's configuration.
    Inline,
    Folder(Place, Output),
}

/// Where one comes from.
#[derive(Debug, PartialEq, Eq)]
enum From {
    Folder(String),
    /// Of the daemon's.
    Image(String),
}

/// Wishes for what `--cache-to` says.
pub(super) fn export<'a>(
    texts: impl Iterator<Item = &'a str>,
    begin: &mut Begin,
    places: &mut Vec<Place>,
) -> Result<(), Failure> {
    for text in texts {
        match to(text)? {
            To::Inline => begin.inline_cache = true,
            To::Folder(place, output) => {
                places.push(place);
                begin.outputs.push(output);
            }
        }
    }
    Ok(())
}

/// Offers what `--cache-from` says. A folder that cannot be read is left out, and that is said.
pub(super) fn import<'a>(
    texts: impl Iterator<Item = &'a str>,
    begin: &mut Begin,
    contexts: &mut BTreeMap<String, Source>,
) -> Result<(), Failure> {
    for text in texts {
        match from(text)? {
            From::Image(name) => begin.cache_from.push(CacheFrom::Image(name)),
            From::Folder(path) => match Context::other(&path) {
                Ok(folder) => {
                    // No name that a Dockerfile could mean.
                    let name = format!("cache-from={path}");
                    contexts.insert(name.clone(), Source::Folder(Arc::new(folder)));
                    begin.cache_from.push(CacheFrom::Folder(name));
                }
                Err(failure) => say(&format!("the cache {path} is not used: {}", failure.message)),
            },
        }
    }
    Ok(())
}

/// `type=local,dest=FOLDER[,mode=min|max]` or `type=inline`.
fn to(text: &str) -> Result<To, Failure> {
    let wrong = |why: &str| fail(format!("invalid --cache-to {text:?}: {why}"));
    let (mut kind, mut destination, mut mode) = ("", "", "min");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("type", value)) => kind = value,
            Some(("dest", value)) => destination = value,
            Some(("mode", value)) => mode = value,
            _ => return Err(wrong(&format!("{field:?} is not understood: use type, dest and mode"))),
        }
    }
    match (kind, mode) {
        ("inline", "min") => Ok(To::Inline),
        ("inline", _) => Err(wrong("an image has the cache of its own layers alone (mode=min)")),
        ("local", "min" | "max") if !destination.is_empty() => {
            let output = Output { form: Form::Cache { all: mode == "max" }, names: Vec::new() };
            Ok(To::Folder(Place::Cache(destination.to_owned()), output))
        }
        ("local", "min" | "max") => Err(wrong("dest is required: dest=FOLDER")),
        ("local", _) => Err(wrong("the mode is min or max")),
        _ => Err(wrong("a cache goes to a folder (type=local,dest=FOLDER) or into the image (type=inline)")),
    }
}

/// `type=local,src=FOLDER`, `type=registry,ref=IMAGE` or an image's name.
fn from(text: &str) -> Result<From, Failure> {
    let wrong = |why: &str| fail(format!("invalid --cache-from {text:?}: {why}"));
    if !text.contains('=') {
        return Ok(From::Image(text.to_owned()));
    }
    let (mut kind, mut source, mut image) = ("", "", "");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("type", value)) => kind = value,
            Some(("src", value)) => source = value,
            Some(("ref", value)) => image = value,
            _ => return Err(wrong(&format!("{field:?} is not understood: use type, src and ref"))),
        }
    }
    match kind {
        "local" if !source.is_empty() => Ok(From::Folder(source.to_owned())),
        "local" => Err(wrong("src is required: src=FOLDER")),
        "registry" if !image.is_empty() => Ok(From::Image(image.to_owned())),
        "registry" => Err(wrong("ref is required: ref=IMAGE")),
        _ => {
            Err(wrong("a cache comes from a folder (type=local,src=FOLDER) or from an image of the daemon's"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_folders_and_images() {
        let folder = |all| {
            let output = Output { form: Form::Cache { all }, names: Vec::new() };
            To::Folder(Place::Cache("out".to_owned()), output)
        };
        assert_eq!(to("type=local,dest=out").unwrap(), folder(false));
        assert_eq!(to("type=local,mode=max,dest=out").unwrap(), folder(true));
        assert_eq!(to("type=inline").unwrap(), To::Inline);
        assert_eq!(from("a:b").unwrap(), From::Image("a:b".to_owned()));
        assert_eq!(from("type=registry,ref=a:b").unwrap(), From::Image("a:b".to_owned()));
        assert_eq!(from("type=local,src=in").unwrap(), From::Folder("in".to_owned()));
        for (text, why) in [
            ("type=local", "dest is required"),
            ("type=local,dest=x,mode=most", "min or max"),
            ("type=inline,mode=max", "mode=min"),
            ("type=registry,dest=x", "a cache goes to a folder"),
            ("type=local,dest=x,color=red", "\"color=red\" is not understood"),
            ("out", "\"out\" is not understood"),
        ] {
            let message = to(text).unwrap_err().message;
            assert!(message.contains(why), "{text}: {message}");
        }
        for (text, why) in [
            ("type=local", "src is required"),
            ("type=registry", "ref is required"),
            ("type=gha", "a cache comes from a folder"),
            ("src=x", "a cache comes from a folder"),
            ("type=local,x", "\"x\" is not understood"),
        ] {
            let message = from(text).unwrap_err().message;
            assert!(message.contains(why), "{text}: {message}");
        }
    }
}
