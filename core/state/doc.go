// Package state keeps records in a folder, so that they survive the end of the process and a power cut. A Dir belongs
// to one process at a time. A Store holds values by key in a file, and a Journal is such a file.
package state
