/**
 * Menus of a filter: a choice by pointer is carried out at once; by keyboard with Enter, or when the menu is left,
 * because each arrow key is a choice already [WCAG 3.2.2]. The focus is where it was when the next page comes.
 */

const FOCUS = "focus-after-filter";

for (const select of document.querySelectorAll("form.filter select")) {
  const first = select.value;
  let byKeyboard = false;
  select.addEventListener("pointerdown", () => {
    byKeyboard = false;
  });
  select.addEventListener("keydown", (event) => {
    byKeyboard = true;
    if (event.key === "Enter" && select.value !== first) {
      event.preventDefault();
      submit(select);
    }
  });
  select.addEventListener("change", () => byKeyboard || submit(select));
  select.addEventListener("blur", (event) => byKeyboard && select.value !== first && submit(select, event.relatedTarget));
}

function submit(select, focused = null) {
  const fields = [...select.form.elements];
  sessionStorage.setItem(FOCUS, fields.indexOf(fields.includes(focused) ? focused : select));
  select.form.requestSubmit();
}

const place = sessionStorage.getItem(FOCUS);
sessionStorage.removeItem(FOCUS);
if (place !== null) {
  document.querySelector("form.filter")?.elements[place]?.focus();
}
