/** Where the items are kept: SQLite, as Node.js 22.5 and later and Deno bring it along. */

export interface Item {
  id: number;
  name: string;
}

export interface Store {
  /** Throws if the database does not answer. */
  check(): void;
  list(): Item[];
  find(id: number): Item | undefined;
  add(name: string): Item;
  rename(id: number, name: string): boolean;
  remove(id: number): boolean;
  close(): void;
}

/** Opens the database, or what stands in for it where the runtime has none. */
export async function openStore(path: string): Promise<Store> {
  const sqlite = await import("node:sqlite").catch((error) => {
    console.error(`No SQLite, items are kept in memory: ${error.message}`);
  });
  if (!sqlite) return memory();
  const database = new sqlite.DatabaseSync(path);
  database.exec("PRAGMA journal_mode = WAL");
  database.exec(
    "CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT",
  );
  const toItem = (row: object) => ({ ...row }) as Item;
  return {
    check: () => void database.prepare("SELECT count(*) FROM items").get(),
    list: () => database.prepare("SELECT id, name FROM items ORDER BY id").all().map(toItem),
    find(id) {
      const row = database.prepare("SELECT id, name FROM items WHERE id = ?").get(id);
      return row && toItem(row);
    },
    add: (name) =>
      toItem(database.prepare("INSERT INTO items (name) VALUES (?) RETURNING id, name").get(name)!),
    rename: (id, name) =>
      database.prepare("UPDATE items SET name = ? WHERE id = ?").run(name, id).changes === 1,
    remove: (id) => database.prepare("DELETE FROM items WHERE id = ?").run(id).changes === 1,
    close: () => database.close(),
  };
}

function memory(): Store {
  const items = new Map<number, Item>();
  let id = 0;
  return {
    check() {},
    list: () => [...items.values()],
    find: (id) => items.get(id),
    add(name) {
      const item = { id: ++id, name };
      items.set(id, item);
      return item;
    },
    rename: (id, name) => items.has(id) && items.set(id, { id, name }) === items,
    remove: (id) => items.delete(id),
    close() {},
  };
}
