//! Linux made safe; the only home of unsafe.
