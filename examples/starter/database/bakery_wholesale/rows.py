"""Rows of the bakery wholesaler, the same for the same random generator.

Traps that are meant: the delivery zones 'East' and 'East Ring' are different, and so are the suppliers 'Mühle
Kern' and 'Mühle Kernen'; ordered and delivered quantities differ, most products have no sale price, and open
complaints have neither a date of resolution nor a refund granted.
"""

from __future__ import annotations

import random
from datetime import date, timedelta


def _pool(text: str) -> list[str]:
    """The values of a list written out with semicolons, over as many lines as it needs."""
    return [" ".join(value.split()) for value in text.split(";")]


PRODUCTS = {
    "bread": _pool("""
    Farmhouse Loaf; Rye Sourdough; Rye Sourdough Large; Spelt Loaf; Walnut Bread; Potato Bread;
    Seeded Batard; Ciabatta; Focaccia; Baguette; Demi Baguette; Pumpernickel; Olive Bread; Brioche Loaf;
    Sandwich White; Sandwich Brown; Pain de Campagne; Sunflower Loaf
"""),
    "roll": _pool("""
    Kaiser Roll; Poppy Roll; Sesame Roll; Pretzel Roll; Burger Bun; Brioche Bun; Oat Roll;
    Pumpkin Seed Roll; Milk Roll; Rye Roll; Cheese Roll; Onion Roll; Bagel; Sesame Bagel
"""),
    "pastry": _pool("""
    Butter Croissant; Almond Croissant; Pain au Chocolat; Cinnamon Snail; Apple Turnover; Cherry Danish;
    Custard Danish; Raisin Swirl; Plum Pocket; Nut Horn; Apricot Lattice; Cardamom Bun
"""),
    "cake": _pool("""
    Carrot Cake; Lemon Drizzle; Poppy Seed Cake; Marble Cake; Sacher Slice; Cheesecake; Plum Crumble;
    Nut Wreath; Honey Cake; Chocolate Brownie; Linzer Slice; Banana Bread
"""),
    "savoury": _pool("""
    Spinach Quiche; Leek Tart; Sausage Roll; Cheese Straw; Pizza Square; Onion Tart; Feta Pocket;
    Mushroom Pie
"""),
}
INGREDIENTS = {
    "gluten": _pool(
        "Wheat Flour; Strong Wheat Flour; Rye Flour; Spelt Flour; Oat Flakes; Wheat Bran; Malt Flour"
    ),
    "milk": _pool("Butter; Whole Milk; Cream; Quark; Feta; Gouda; Parmesan; Buttermilk; Milk Powder"),
    "nuts": _pool("Walnuts; Almonds; Almond Paste; Hazelnuts; Pistachios; Pecans"),
    "egg": _pool("Whole Egg; Egg Yolk; Egg White"),
    "sesame": _pool("Sesame Seed; Black Sesame"),
    None: _pool("""
    Water; Sea Salt; Fresh Yeast; Dry Yeast; Sugar; Brown Sugar; Honey; Olive Oil; Rapeseed Oil;
    Sunflower Seed; Pumpkin Seed; Poppy Seed; Apples; Plums; Cherries; Apricots; Raisins; Bananas; Carrots;
    Lemons; Spinach; Leeks; Onions; Mushrooms; Olives; Potatoes; Cinnamon; Cardamom; Vanilla; Cocoa;
    Dark Chocolate; Baking Powder
"""),
}
SUPPLIERS = ["Mühle Kern", "Mühle Kernen", "Alpenhof Dairy", "Sunfield Foods", "Nordic Grain", "Casa Oliva"]

STEMS = _pool("""
    Blue Door; Corner House; Golden Goose; Green Table; Little Fox; Morning Star; Old Mill; Red Lion;
    Silver Spoon; Station; Sunny Side; Three Crowns; Tower; White Swan; Wooden Spoon; Lakeview; Bellevue;
    St Anna; Hillcrest; Northwind; Rosebud; Copper Pot; Daily Bread; Kettle & Cup; Lemon Tree
""")
KINDS = {
    "cafe": ["Cafe", "Coffee Bar", "Tea Room"],
    "hotel": ["Hotel", "Guest House", "Inn"],
    "school": ["Primary School", "College"],
    "shop": ["Corner Shop", "Deli", "Market"],
    "canteen": ["Canteen", "Care Home"],
}
ZONES = ["East", "East Ring", "Harbor Side", "Old Center", "South", "Hill Road"]
CONTACTS = _pool("""
    A. Brandt; B. Okafor; C. Leclerc; D. Haas; E. Moreau; F. Lindgren; G. Santos; H. Yamada; I. Petrescu;
    J. Weber; J. Webber; K. Nowak; L. Duarte; M. Eder; N. Karim; O. Schuster; P. Quinn; S. Roth; T. Vargas;
    U. Zander
""")
TOPICS = ["late delivery", "late delivery", "missing items", "stale goods", "wrong items", "damaged goods"]


def _day(rng: random.Random, first: str, last: str) -> str:
    """A day from `first` to `last` (both ISO dates and both possible), as an ISO date."""
    start = date.fromisoformat(first)
    return (start + timedelta(days=rng.randint(0, (date.fromisoformat(last) - start).days))).isoformat()


def _later(day: str, days: int) -> str:
    """The ISO date `days` after `day`, or before it where `days` is negative."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """All rows by table, in an order that satisfies the foreign keys."""
    products = []
    weights = {"bread": [500, 750, 1000], "roll": [60, 80, 80], "pastry": [70, 95], "cake": [400, 900]}
    prices = {"bread": [2.2, 2.9, 2.95, 3.8], "roll": [0.35, 0.4, 0.4, 0.6], "pastry": [0.9, 1.1, 1.1, 1.4]}
    named = [(name, category) for category, names in PRODUCTS.items() for name in names]
    for number, (name, category) in enumerate(named, start=1):
        dough = rng.choice(weights.get(category, [120, 250]))
        baked = int(dough * rng.choice([0.82, 0.85, 0.88]))
        price = rng.choice(prices.get(category, [2.5, 4.0, 7.5, 12.0]))
        sale = round(price * rng.choice([0.75, 0.8, 0.9]), 2) if rng.random() < 0.3 else None
        launched = _day(rng, "2009-02-01", "2022-11-30")
        gone = _day(rng, "2023-01-15", "2023-12-15") if number % 10 == 3 else None
        products.append((number, name, category, dough, baked, price, sale, launched, gone))

    ingredients = []
    listed = [(name, allergen) for allergen, names in INGREDIENTS.items() for name in names]
    for number, (name, allergen) in enumerate(listed, start=1):
        stock = rng.choice([0.0, 4.0, 12.5, 25.0, 25.0, 60.0, 140.0])
        cost = rng.choice([0.5, 0.9, 1.2, 1.2, 2.8, 6.4, 9.5, 18.0])
        minimum = rng.choice([2.0, 5.0, 12.5, 25.0, 50.0])
        ingredients.append((number, name, rng.choice(SUPPLIERS), allergen, cost, stock, minimum))

    recipe_items = []
    for product in products:
        flour = rng.randint(1, 4)
        others = rng.sample(range(5, len(ingredients) - 2), rng.choice([3, 4, 5, 6]))
        recipe_items.append((product[0], flour, rng.choice([50, 200, 250, 250, 400])))
        recipe_items += [(product[0], other, rng.choice([2, 5, 10, 10, 25, 60])) for other in sorted(others)]

    customers = []
    for number in range(1, 101):
        kind = rng.choice(["cafe", "cafe", "cafe", "hotel", "school", "shop", "canteen"])
        company = f"{rng.choice(STEMS)} {rng.choice(KINDS[kind])}"
        limit = rng.choice([500, 1000, 1000, 2500, 5000])
        balance = rng.choice([0, 0, 100, 101, 480, 640, 1200, 2600])
        contact = rng.choice([None, *CONTACTS])
        if rng.random() < 0.15:
            contact = None
        customers.append(
            (
                number,
                company,
                kind,
                rng.choice(ZONES),
                contact,
                limit,
                balance,
                _day(rng, "2010-01-01", "2022-12-31"),
            )
        )

    orders = []
    for number in range(1, 261):
        ordered = _day(rng, "2023-01-02", "2023-12-28")
        promised = _later(ordered, rng.choice([1, 1, 2, 3]))
        delivered = _later(promised, rng.choice([-1, 0, 0, 0, 0, 1, 2])) if rng.random() < 0.93 else None
        method = rng.choice(["invoice", "invoice", "card", "cash", "direct debit"])
        customer_id = min(rng.randint(1, 94), rng.randint(1, 94))
        orders.append(
            (number, customer_id, ordered, promised, delivered, method, rng.choice([0, 0, 0, 3, 5, 10]))
        )

    pairs: set[tuple[int, int]] = set()
    while len(pairs) < 480:
        pairs.add((rng.randint(1, 252), min(rng.randint(1, 60), rng.randint(1, 60))))
    order_lines = []
    for order_id, product_id in sorted(pairs):
        _, _, category, _, _, price, sale, _, _ = products[product_id - 1]
        ordered_quantity = rng.choice(
            [4, 6, 10, 12] if category == "cake" else [10, 20, 20, 24, 50, 100, 101]
        )
        short = rng.choice([0, 0, 0, 0, 1, 2, 4])
        unit_price = sale if sale and rng.random() < 0.4 else price
        order_lines.append((order_id, product_id, ordered_quantity, ordered_quantity - short, unit_price))

    complaints = []
    for number in range(1, 81):
        order_id = rng.randint(1, 250)
        raised = _later(orders[order_id - 1][3], rng.choice([0, 1, 1, 2, 5]))
        resolved = _later(raised, rng.choice([0, 1, 3, 7, 15, 16])) if rng.random() < 0.8 else None
        claimed = rng.choice([5.0, 12.5, 20.0, 20.0, 48.0, 75.0])
        granted = claimed * rng.choice([0.0, 0.5, 0.5, 1.0, 1.0]) if resolved else None
        complaints.append((number, order_id, rng.choice(TOPICS), raised, resolved, claimed, granted))

    return {
        "product": products,
        "ingredient": ingredients,
        "recipe_item": recipe_items,
        "customer": customers,
        "bakery_order": orders,
        "order_line": order_lines,
        "complaint": complaints,
    }
