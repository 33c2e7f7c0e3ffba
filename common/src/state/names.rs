use std::fmt::Debug;
use std::hash::Hash;

/// A plain enum whose values have names.
pub trait Named: Debug + Copy + Eq + Hash + Sized + 'static {
    /// What the names name.
    const WHAT: &'static str;
    /// Every value, in order of declaration.
    const ALL: &'static [Self];

    /// The name of a value.
    fn name(&self) -> &'static str;
}

/// Declares an enum with names: `Display`, `FromStr` and serde use them.
macro_rules! named {
    (
        $(#[$meta:meta])*
        $vis:vis enum $Enum:ident ($what:literal) {
            $($(#[$variant_meta:meta])* $Variant:ident = $name:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        $vis enum $Enum {
            $($(#[$variant_meta])* #[serde(rename = $name)] $Variant,)+
        }

        impl $crate::state::Named for $Enum {
            const WHAT: &'static str = $what;
            const ALL: &'static [Self] = &[$(Self::$Variant),+];
            fn name(&self) -> &'static str {
                match self { $(Self::$Variant => $name,)+ }
            }
        }

        impl std::fmt::Display for $Enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad($crate::state::Named::name(self))
            }
        }

        impl std::str::FromStr for $Enum {
            type Err = $crate::types::ParseError;
            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($name => Ok(Self::$Variant),)+
                    _ => Err($crate::types::ParseError::new($what, name, concat!("one of", $(" ", $name,)+))),
                }
            }
        }
    };
}

pub(super) use named;
