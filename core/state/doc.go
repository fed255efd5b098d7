// Package state keeps records in a folder, so that they survive the end of the process and a power cut. A Dir is a
// folder that belongs to one process at a time. A Store holds values by key. It keeps them in a Journal, which is a
// file of entries.
package state
