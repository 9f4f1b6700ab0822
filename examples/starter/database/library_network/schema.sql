-- A public library network: branches, the books and copies they hold, members and their loans.
CREATE TABLE branch (
    branch_id INTEGER PRIMARY KEY,
    branch_name TEXT NOT NULL,
    district TEXT NOT NULL,
    opened_on DATE NOT NULL,
    closed_on DATE,
    floor_area_sqm INTEGER NOT NULL,
    public_seats INTEGER NOT NULL,
    staff_seats INTEGER NOT NULL
);

CREATE TABLE author (
    author_id INTEGER PRIMARY KEY,
    full_name TEXT NOT NULL,
    country TEXT NOT NULL,
    birth_year INTEGER NOT NULL,
    death_year INTEGER
);

CREATE TABLE book (
    book_id INTEGER PRIMARY KEY,
    title TEXT NOT NULL,
    author_id INTEGER NOT NULL,
    genre TEXT NOT NULL,
    language TEXT NOT NULL,
    published_year INTEGER NOT NULL,
    acquired_year INTEGER NOT NULL,
    page_count INTEGER,
    list_price REAL NOT NULL,
    replacement_cost REAL NOT NULL,
    FOREIGN KEY (author_id) REFERENCES author (author_id)
);

CREATE TABLE book_copy (
    copy_id INTEGER PRIMARY KEY,
    book_id INTEGER NOT NULL,
    branch_id INTEGER NOT NULL,
    condition TEXT NOT NULL,
    added_on DATE NOT NULL,
    withdrawn_on DATE,
    FOREIGN KEY (book_id) REFERENCES book (book_id),
    FOREIGN KEY (branch_id) REFERENCES branch (branch_id)
);

CREATE TABLE member (
    member_id INTEGER PRIMARY KEY,
    full_name TEXT NOT NULL,
    district TEXT NOT NULL,
    email TEXT,
    birth_date DATE NOT NULL,
    joined_on DATE NOT NULL,
    expires_on DATE NOT NULL,
    home_branch_id INTEGER,
    FOREIGN KEY (home_branch_id) REFERENCES branch (branch_id)
);

CREATE TABLE loan (
    loan_id INTEGER PRIMARY KEY,
    copy_id INTEGER NOT NULL,
    member_id INTEGER NOT NULL,
    borrowed_on DATE NOT NULL,
    due_on DATE NOT NULL,
    returned_on DATE,
    renewals INTEGER NOT NULL,
    fine_due REAL NOT NULL,
    fine_paid REAL NOT NULL,
    FOREIGN KEY (copy_id) REFERENCES book_copy (copy_id),
    FOREIGN KEY (member_id) REFERENCES member (member_id)
);
