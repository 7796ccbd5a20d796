// List shows many rows of one height in a scrolling element: only those that are seen are there.
export class List {
  // make(key) makes a row, and fill(row, item) fills it. An item has a key of its own.
  constructor(scroller, height, make, fill, empty) {
    Object.assign(this, {scroller, height, make, fill, empty});
    this.items = [];
    this.rows = new Map();
    this.space = document.createElement("div");
    this.space.className = "space";
    this.note = document.createElement("p");
    this.note.className = "empty";
    this.note.textContent = empty;
    scroller.append(this.note, this.space);
    scroller.addEventListener("scroll", () => this.draw(), {passive: true});
    new ResizeObserver(() => this.draw()).observe(scroller);
  }

  show(items) {
    this.items = items;
    this.note.hidden = items.length > 0;
    this.space.style.height = items.length * this.height + "px";
    this.draw();
  }

  draw() {
    const {scrollTop, clientHeight} = this.scroller;
    if (clientHeight === 0) return;
    const first = Math.max(0, Math.floor(scrollTop / this.height) - 4);
    const last = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / this.height) + 4);
    const seen = new Set();
    for (let i = first; i < last; i++) {
      const item = this.items[i];
      seen.add(item.key);
      let row = this.rows.get(item.key);
      if (!row) {
        row = this.make();
        row.classList.add("row");
        this.rows.set(item.key, row);
      }
      const at = this.space.children[i - first];
      if (at !== row) this.space.insertBefore(row, at || null);
      row.style.transform = `translateY(${i * this.height}px)`;
      this.fill(row, item);
    }
    for (const [key, row] of this.rows) {
      if (!seen.has(key)) {
        row.remove();
        this.rows.delete(key);
      }
    }
  }
}
