/** Elements: the page is built from elements and texts, never from markup. */

/** Returns an element. Functions among the attributes, such as onclick, become listeners. */
export function element(name, attributes = {}, ...content) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node[key] = value;
    else if (value !== false && value !== undefined) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...content);
  return node;
}

export function button(text, onclick, attributes = {}) {
  return element("button", { type: "button", onclick, ...attributes }, text);
}

/** Returns the content of a template and its parts, by the attribute data-part. */
export function fillTemplate(id) {
  const content = document.getElementById(id).content.cloneNode(true);
  const parts = {};
  for (const node of content.querySelectorAll("[data-part]")) parts[node.dataset.part] = node;
  return { content, parts };
}

/** Sets a text only if it differs, so that a screen reader does not repeat it. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Lets a list have one child for each item, and keeps the children of items that stay, so that
 * focus and open questions stay, too.
 *
 * create(item) returns a child, which has a method update(item).
 */
export function updateList(list, items, create) {
  const children = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let previous = null;
  for (const item of items) {
    let child = children.get(item.id);
    if (child) children.delete(item.id);
    else {
      child = create(item);
      child.dataset.key = item.id;
    }
    child.update(item);
    const place = previous ? previous.nextSibling : list.firstChild;
    if (place !== child) list.insertBefore(child, place);
    previous = child;
  }
  for (const child of children.values()) child.remove();
}

/** Calls a function each second until the signal is aborted. A hidden page does not count down. */
export function everySecond(tick, signal) {
  const timer = setInterval(() => { if (!document.hidden) tick(); }, 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
}
