/**
 * Settings of glibc's allocator (`mallopt(3)`) for a process that lives long and holds many small
 * connections. Node.js reads from every socket into 64 KiB that live for a moment: on the heap they
 * leave holes between what stays, half of what a session costs. Mapped, they go back at once. Read at
 * the start of a process; other libraries ignore them.
 */
export const LEAN_ALLOCATOR: Readonly<Record<string, string>> = {
  MALLOC_MMAP_THRESHOLD_: '65536',
  MALLOC_TOP_PAD_: '0',
  MALLOC_ARENA_MAX: '1',
};
