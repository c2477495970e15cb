// In place of zarrita; nothing of it is ever called.
export {};
